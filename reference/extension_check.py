#!/usr/bin/env python3
"""Extended vocabularies, as transformers and tokenizers read them.

    extension_check.py make FOLDER DATA    writes small random models with byte-level tokenizers (GPT-2's, OLMo's, and
                                           one of the kind of Llama 3), a text to learn from and texts to encode
    extension_check.py check FOLDER        after `cargo run -p milpa-model --example extension_check FOLDER`: opens the
                                           extended folders and compares

Held: AutoTokenizer gives our ids on every text; a text whose ids are all old has the base's ids; every new token is
the text of the old ones that it stands for; our logits and those of AutoModelForCausalLM differ by less than 1e-5 of
the largest, and its logits of old tokens are those of the base within 1e-5; rows of new tokens are the means of their
parts. DATA is the folder with tokenizers/ and text/. Needs: torch, transformers, tokenizers, zstandard.
"""
import io
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import zstandard
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(2)
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def documents(path, count, length):
    with open(path, "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line)["text"][:length] for line, _ in zip(lines, range(count))]


def llama3_kind(texts):
    """Words that are tokens are not merged, special tokens stand outside the vocabulary, texts begin with one."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[(special[0], tokenizer.token_to_id(special[0]))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])


def make(folder, data):
    english = documents(data / "text/en_novels.jsonl.zst", 4, 60_000)
    portuguese = documents(data / "text/pt_novels.jsonl.zst", 12, 60_000)
    quechua = documents(data / "text/indigenous.jsonl.zst", 40, 400)
    gpt2 = Tokenizer(models.BPE.from_file(
        str(data / "tokenizers/gpt2/vocab.json"), str(data / "tokenizers/gpt2/merges.txt")))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2.decoder = decoders.ByteLevel()
    gpt2.add_special_tokens(["<|endoftext|>"])
    bases = {
        # Name: tokenizer, rows beyond its tokens, whether the output layer is the embedding.
        "gpt2": (PreTrainedTokenizerFast(tokenizer_object=gpt2, eos_token="<|endoftext|>"), 47, True),
        "olmo": (PreTrainedTokenizerFast(
            tokenizer_file=str(data / "tokenizers/olmo/allenai_gpt-neox-olmo-dolma-v1_5.json")), 300, False),
        "llama3_kind": (llama3_kind(english), 0, False),
    }
    for seed, (name, (tokenizer, padding, tied)) in enumerate(bases.items()):
        torch.manual_seed(seed)
        rows = len(tokenizer) + padding
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=rows, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.4,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))
        model.save_pretrained(folder / name / "base")
        tokenizer.save_pretrained(folder / name / "base")
        texts = [text[at:at + 300] for text in portuguese[6:] + english for at in range(0, 30_000, 3_000)]
        texts += quechua + ["", " ", "a", "<|eot_id|> ", "\n\n  ção\t", "ＡＢ e\u0301 🌽🌽"]
        (folder / name / "learn.json").write_text(json.dumps(portuguese[:6]))
        (folder / name / "texts.json").write_text(json.dumps(texts))


def check(folder):
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        ours = json.loads((case / "ours.json").read_text())
        texts, old = json.loads((case / "texts.json").read_text()), ours["old"]
        # Ours reads special tokens in a text as text.
        before, after = (
            AutoTokenizer.from_pretrained(case / part, split_special_tokens=True) for part in ["base", "extended"])
        assert len(before) == old and len(after) == old + len(ours["parts"]), (len(before), len(after), old)
        for id in range(old):
            assert before.convert_ids_to_tokens(id) == after.convert_ids_to_tokens(id), id
        for id, parts in enumerate(ours["parts"], old):
            joined = "".join(before.convert_ids_to_tokens(parts))
            assert after.convert_ids_to_tokens(id) == joined and len(parts) > 1, (id, joined)
        base = AutoModelForCausalLM.from_pretrained(case / "base", dtype=torch.float32).eval()
        model = AutoModelForCausalLM.from_pretrained(case / "extended", dtype=torch.float32).eval()
        for rows, old_rows in [(model.get_input_embeddings().weight, base.get_input_embeddings().weight),
                               (model.get_output_embeddings().weight, base.get_output_embeddings().weight)]:
            assert torch.equal(rows[:old], old_rows[:old])
            for id, parts in enumerate(ours["parts"], old):
                assert (rows[id] - old_rows[parts].double().mean(0)).abs().max() < 1e-6
        counts = dict(texts=0, unchanged=0, tokens_before=0, tokens_after=0)
        worst = worst_old = 0.0
        for text, told in zip(texts, ours["texts"], strict=True):
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in [before, after]]
            assert ids == [told["before"], told["after"]], text
            assert before.decode(ids[0]) == after.decode(ids[1]), text
            counts["texts"] += 1
            counts["tokens_before"] += len(ids[0])
            counts["tokens_after"] += len(ids[1])
            unchanged = all(id < old for id in ids[1])
            assert not unchanged or ids[0] == ids[1]
            counts["unchanged"] += unchanged
            if told["logits"] is None:
                continue
            rows = model.config.vocab_size
            mine = torch.tensor(told["logits"]).view(-1, rows)
            with torch.no_grad():
                theirs = model(torch.tensor([ids[1][:len(mine)]])).logits[0]
                worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max()))
                if unchanged:
                    past = base(torch.tensor([ids[0][:len(mine)]])).logits[0]
                    worst_old = max(worst_old, float((past[:, :old] - theirs[:, :old]).abs().max()))
        assert worst < 1e-5 and worst_old < 1e-5, (worst, worst_old)
        assert counts["unchanged"] > 3 and counts["tokens_after"] < counts["tokens_before"]
        print(f"{case.name}: {len(ours['parts'])} new tokens, {counts['texts']} texts with the same ids, "
              f"{counts['unchanged']} of them as before; {counts['tokens_before']} tokens, now "
              f"{counts['tokens_after']}; logits within {worst:.0e} of the largest of transformers', those of old tokens "
              f"within {worst_old:.0e} of the base's")
    print(f"extended models hold: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_dir()))}")


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    make(Path(folder), Path(rest[0])) if command == "make" else check(Path(folder))
