"""Writes crates/milpa-tokens/src/bert_classes.rs: how BERT's normaliser and pre-tokeniser of Hugging
Face tokenizers class every character.

    pip install tokenizers
    python reference/bert_classes.py > crates/milpa-tokens/src/bert_classes.rs

The classes are asked of the peer itself, character by character, since its tables are of an older
Unicode than the standard library's.
"""

import sys

from tokenizers import normalizers, pre_tokenizers

CLEAN = normalizers.BertNormalizer(
    clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
)
STRIP = normalizers.BertNormalizer(
    clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
)
CUT = pre_tokenizers.BertPreTokenizer()


def ranges(belongs):
    found = []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000 or not belongs(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def write(name, doc, found):
    print(f"\n/// {doc}")
    print(f"pub(crate) const {name}: &[(u32, u32)] = &[")
    line = "   "
    for first, last in found:
        item = f" (0x{first:X}, 0x{last:X}),"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("];")


def main():
    print("//! Classes of characters as BERT's tokenizer sees them: runs of code points, both ends included.")
    print("//!")
    print("//! Written by `reference/bert_classes.py`; do not edit.")
    print("\n#![cfg_attr(rustfmt, rustfmt_skip)]")
    write("REMOVED", "Control characters, which cleaning removes.",
          ranges(lambda c: CLEAN.normalize_str("a" + c + "b") == "ab"))
    write("ACCENTS", "Marks that are removed with the accents.",
          ranges(lambda c: STRIP.normalize_str("a" + c + "b") == "ab"))
    write("PUNCTUATION", "Punctuation, of which each character is a word.",
          ranges(lambda c: len(CUT.pre_tokenize_str("a" + c + "b")) == 3))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
