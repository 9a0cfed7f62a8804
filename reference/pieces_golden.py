"""SentencePiece and WordPiece tokenizers: golden values, and a wide comparison with the peers.

    pip install tokenizers sentencepiece protobuf
    python reference/pieces_golden.py train  crates/milpa-tokens/tests/it/golden
    python reference/pieces_golden.py golden DATA crates/milpa-tokens/tests/it/golden
    cargo build --release -p milpa-tokens --example tokens
    python reference/pieces_golden.py check  DATA target/release/examples/tokens [TEXTS.jsonl ...]

`train` makes the two small `.model` files (Unigram, and BPE with byte fallback) from the sentences
below; they are committed, since training is not the same to the bit everywhere. `golden` writes
`pieces.json`: ids of `sentencepiece` for the `.model` files and of `tokenizers` for BERT. `check`
holds our ids against the peers' on many more texts and prints how many differ; exit status 1 if any
does. DATA is the folder that the tests find through MILPA_DATA.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece
from tokenizers import Tokenizer

SENTENCES = [
    "La milpa junta el maíz, el frijol y la calabaza en un mismo campo.",
    "Cada familia guarda la semilla del año anterior para la siembra que viene.",
    "El agua baja del cerro y llega a las parcelas por una acequia de piedra.",
    "En la escuela rural los niños leen cuentos en su lengua y en español.",
    "¿Quién cuida la huerta cuando llueve? ¡Todos la cuidamos juntos!",
    "A professora escreveu no quadro: a terra é de quem a trabalha.",
    "As crianças cantam canções antigas enquanto a avó prepara o pão.",
    "Não há inverno que não passe, nem rio que não chegue ao mar.",
    "Mba’éichapa, che irũnguéra? Iporã, aguyje peẽme.",
    "Ko'ẽ porã, ñande retã oñemongakuaa ñe'ẽ rupive.",
    "Ñuqanchikqa sara tarpuyta yachanchik, unuwan allinta qarpaspa.",
    "Wasiykupi mamayqa p'achata away yachan, taytayñataq chakrata llamk'an.",
    "Nehuatl nitlahtoa nahuatl ihuan nicnequi niccaquiz in huehuetlahtolli.",
    "In cihuatl quitlalia in tlaxcalli ipan comalli, in oquichtli quitoca in cintli.",
    "El 12 de octubre de 1998 cayeron 35,6 mm de lluvia; costó $ 1.250,00.",
    "Un poema corto: sol, sal, mar, pan, luz, paz, voz y flor.",
]

PIECES = [
    "a", "ñ", "ñu", "maíz", "canções", "ã", "g\u0303", "ẽ", "p'", "’", "12", "1.250,00", "¿", "¡", "...",
    "-", " ", "  ", "    ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u200d", "\u00ad",
    "e\u0301", "é", "ﬁ", "①", "Ⅷ", "½", "ｶﾞ", "ﾊ", "한국", "\u1112\u1161\u11ab", "日本", "㍿", "ﷺ",
    "👩\u200d🌾", "🇵🇪", "\U0001f600", "\ufffd", "\u0000", "\u0001", "\ufeff", "\U000e0041", "▁", "▁▁a",
    "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]", "##a",
    "[PREFIX]", "[IMG]", "[control_8]", "<0x41>", "Σ", "ς", "İ", "ß", "ſ", "aaaa", "aaaaaaaaaaaaaaaa", "-----------",
    "================", "tlahtolli", "ihuan", "taytayñataq", "The", "QUÉ", "Ñandú", "#", "_", "\u0301",
]  # fmt: skip


def texts(count, seed):
    pick = random.Random(seed)
    made = [*SENTENCES, *(sentence.upper() for sentence in SENTENCES), "", " ", "   ", "\n", "a" * 300]
    made += [unicodedata.normalize("NFD", sentence) for sentence in SENTENCES]
    made += [" ".join(SENTENCES), "\n\n".join(SENTENCES), "  ".join(SENTENCES) + "  "]
    made += ["".join(pick.choice(PIECES) for _ in range(pick.randrange(1, 14))) for _ in range(count)]

    def character():
        while True:
            code = pick.choice([0x80, 0x250, 0x600, 0x3000, 0xA000, 0x10000, 0x20000, 0x110000])
            code = pick.randrange(code)
            if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn":
                return chr(code)

    made += ["".join(character() for _ in range(pick.randrange(1, 40))) for _ in range(count)]
    return made


def train(folder):
    with tempfile.TemporaryDirectory() as scratch:
        for name, kind, size, fallback in (("unigram", "unigram", 220, False), ("bpe", "bpe", 560, True)):
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(SENTENCES * 4),
                model_prefix=f"{scratch}/{name}",
                model_type=kind,
                vocab_size=size,
                byte_fallback=fallback,
                character_coverage=1.0,
                # The whole map of NFKC has 240 kB; these rules show every branch of it.
                normalization_rule_tsv=rules(scratch),
                user_defined_symbols=["<sep>", "maíz"],
                max_sentence_length=10000,
                num_threads=1,
                minloglevel=2,
            )
            model = pathlib.Path(f"{scratch}/{name}.model").read_bytes()
            (folder / f"{name}.model").write_bytes(model)


def rules(scratch):
    """A character map small enough to be committed."""
    path = pathlib.Path(scratch) / "rules.tsv"
    pairs = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "e\u0301": "é", "ﬁ": "fi",
             "①": "1", "Ⅷ": "VIII", "½": "1⁄2", "ｶﾞ": "ガ", "ｶ": "カ", "㍿": "株式会社", "\u200b": "",
             "N\u0303": "Ñ", "n\u0303": "ñ"}  # fmt: skip
    hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in pairs.items()))
    return str(path)


def bert(data):
    """BERT's tokenizer.json, made of its published vocabulary."""
    words = (data / "tokenizers/expected_encodings/bert-vocab.txt").read_text().split("\n")
    words = words[:-1] if words[-1] == "" else words
    special = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    piece = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [{"id": words.index(t), "content": t, **flags} for t in special],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
            "pair": [],
            "special_tokens": {
                t: {"id": t, "ids": [words.index(t)], "tokens": [t]} for t in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {word: id for id, word in enumerate(words)},
        },
    }  # fmt: skip


def peer_ids(kind, path, made):
    if kind == "sentencepiece":
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return [model.encode(text) for text in made]
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in made]


def golden(data, folder):
    made = texts(40, 3)
    result = {"texts": made}
    for name in ("unigram", "bpe"):
        result[name] = peer_ids("sentencepiece", folder / f"{name}.model", made)
    mistral = data / "tokenizers/mistral"
    for name, file in (
        ("mistral_v1", "tokenizer.model.v1"),
        ("mistral_v3", "mistral_instruct_tokenizer_240323.model.v3"),
    ):
        result[name] = peer_ids("sentencepiece", mistral / file, made)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "tokenizer.json"
        path.write_text(json.dumps(bert(data)))
        result["bert"] = peer_ids("tokenizers", path, made)
    (folder / "pieces.json").write_text(
        json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    print(f"{len(made)} texts under {len(result) - 1} tokenizers")


def our_ids(program, tokenizer, made, scratch):
    path = pathlib.Path(scratch) / "texts.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for text in made:
            file.write(json.dumps({"text": text}) + "\n")
    done = subprocess.run([program, "ids", tokenizer, path], check=True, capture_output=True)
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def compare(label, made, theirs, ours):
    differing = [i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
    tokens = sum(map(len, theirs))
    print(f"{label}: {len(made)} texts, {tokens} tokens, {len(differing)} texts with other ids")
    for i in differing[:4]:
        print("   ", repr(made[i][:90]), theirs[i][:24], ours[i][:24])
    return len(differing)


def train_large(scratch, sentences):
    """Models with sentencepiece's own maps, of every kind that is read."""
    for name, options in (
        ("unigram_nmt_nfkc", {"model_type": "unigram"}),
        ("unigram_cf_bytes", {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf",
                              "byte_fallback": True}),
        ("unigram_identity", {"model_type": "unigram", "normalization_rule_name": "identity",
                              "remove_extra_whitespaces": False, "add_dummy_prefix": False}),
        ("bpe_nfkc", {"model_type": "bpe", "normalization_rule_name": "nfkc",
                      "user_defined_symbols": ["<sep>", "maíz", "  "]}),
        ("bpe_suffix", {"model_type": "bpe", "treat_whitespace_as_suffix": True}),
    ):  # fmt: skip
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_prefix=f"{scratch}/{name}", vocab_size=700,
            hard_vocab_limit=False, num_threads=1, minloglevel=2, **options,
        )  # fmt: skip
        yield pathlib.Path(f"{scratch}/{name}.model")


def unigram_json(model, scheme):
    """A Unigram tokenizer.json as converters write it: map on graphemes, ▁ before each word."""
    from sentencepiece import sentencepiece_model_pb2
    import base64

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    special = [(i, p.piece) for i, p in enumerate(proto.pieces) if p.type in (2, 3)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, **flags} for i, t in special],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap":
                base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()},
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True},
        "post_processor": None, "decoder": None,
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
                  "vocab": [[p.piece, p.score] for p in proto.pieces]},
    }  # fmt: skip


def hugging_face_unigram(scratch):
    model = (pathlib.Path(scratch) / "unigram_nmt_nfkc.model").read_bytes()
    for scheme in ("always", "first"):
        path = pathlib.Path(scratch) / f"hf_{scheme}.json"
        path.write_text(json.dumps(unigram_json(model, scheme)))
        yield path


def check(data, program, files):
    made = texts(4000, 5)
    for file in files:
        with open(file, encoding="utf-8") as lines:
            made += [json.loads(line)["text"] for line in lines]
    wrong = tokenizers = 0
    with tempfile.TemporaryDirectory() as scratch:
        models = sorted((data / "tokenizers/mistral").glob("*.model*"))
        models += train_large(scratch, SENTENCES * 20 + texts(1000, 9)[:1000])
        for path in models:
            tokenizers += 1
            theirs = peer_ids("sentencepiece", path, made)
            wrong += compare(f"{path.name} against sentencepiece", made, theirs, our_ids(program, path, made, scratch))
        plain = [t for t in made if not any(s in t for s in ("<s>", "</s>", "<unk>"))]
        for path in hugging_face_unigram(scratch):
            tokenizers += 1
            theirs = peer_ids("tokenizers", path, plain)
            wrong += compare(f"{path.name} against tokenizers", plain, theirs, our_ids(program, path, plain, scratch))
        path = pathlib.Path(scratch) / "tokenizer.json"
        path.write_text(json.dumps(bert(data)))
        theirs = peer_ids("tokenizers", path, made)
        wrong += compare("BERT against tokenizers", made, theirs, our_ids(program, path, made, scratch))
    print(f"{len(made)} texts under {tokenizers + 1} tokenizers: {wrong} with other ids")
    sys.exit(1 if wrong else 0)


def main():
    command, *arguments = sys.argv[1:]
    if command == "train":
        train(pathlib.Path(arguments[0]))
    elif command == "golden":
        golden(*map(pathlib.Path, arguments))
    else:
        check(pathlib.Path(arguments[0]), arguments[1], arguments[2:])


if __name__ == "__main__":
    main()
