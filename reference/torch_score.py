#!/usr/bin/env python3
"""Forward passes that score tokens, in PyTorch: the peer of `train_step --forward-only`.

A Llama-shaped decoder (RMSNorm, rotary positions in half-split pairs, grouped-query attention, SwiGLU, tied head);
scores a batch: log softmax(logits)[next token] of every position, without gradients. Weights are random: only the time
counts, the numbers are compared elsewhere. Prints one JSON line.
"""
import argparse, json, os, resource, time

parser = argparse.ArgumentParser()
for name, value in dict(d_model=384, layers=6, heads=8, kv_heads=4, ffn=1024, vocab=8192, seq=512, batch=1, threads=2, steps=8, warmup=3).items():
    parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: weights and activations in bf16")
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()
os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
import torch
import torch.nn.functional as F

torch.set_num_threads(args.threads)
dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
torch.manual_seed(1)
d, k = args.d_model, args.d_model // args.heads


def matrix(rows, columns):
    return (torch.randn(rows, columns) * 0.02).to(dtype)


layers = [
    dict(q=matrix(args.heads * k, d), kv=matrix(2 * args.kv_heads * k, d), o=matrix(d, args.heads * k),
         gate=matrix(args.ffn, d), up=matrix(args.ffn, d), down=matrix(d, args.ffn),
         norm1=torch.ones(d, dtype=dtype), norm2=torch.ones(d, dtype=dtype))
    for _ in range(args.layers)
]
embedding, last_norm = matrix(args.vocab, d), torch.ones(d, dtype=dtype)
angles = torch.arange(args.seq)[:, None] * 10000.0 ** (-torch.arange(0, k, 2) / k)
cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def score(tokens, targets):
    x = embedding[tokens]
    b, t, _ = x.shape
    for layer in layers:
        h = F.rms_norm(x, (d,), layer["norm1"], 1e-5)
        q = rotate((h @ layer["q"].T).view(b, t, args.heads, k).transpose(1, 2))
        key, value = (h @ layer["kv"].T).view(b, t, 2, args.kv_heads, k).permute(2, 0, 3, 1, 4)
        groups = args.heads // args.kv_heads
        key, value = rotate(key).repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, key, value, is_causal=True)
        x = x + y.transpose(1, 2).reshape(b, t, -1) @ layer["o"].T
        h = F.rms_norm(x, (d,), layer["norm2"], 1e-5)
        x = x + (F.silu(h @ layer["gate"].T) * (h @ layer["up"].T)) @ layer["down"].T
    logits = (F.rms_norm(x, (d,), last_norm, 1e-5) @ embedding.T).float().view(-1, args.vocab)
    return F.cross_entropy(logits, targets.reshape(-1), reduction="none")


run = torch.compile(score) if args.compile else score
tokens = torch.randint(args.vocab, (args.batch, args.seq + 1))
times = []
with torch.inference_mode():
    for _ in range(args.warmup + args.steps):
        begin = time.perf_counter()
        run(tokens[:, :-1], tokens[:, 1:])
        times.append(time.perf_counter() - begin)
times = sorted(times[args.warmup:])
median = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
print(json.dumps(dict(torch=torch.__version__, dtype=args.dtype, compile=args.compile, threads=args.threads, median_ms=median * 1e3,
                      tok_s=args.batch * args.seq / median, peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))
