#!/usr/bin/env python3
"""Writes identity, tax and bank numbers with python-stdnum's judgement of each.

  personal_golden.py OUT

For each kind: valid numbers, each of them with one digit changed, with two neighbours exchanged and
with a letter in it, and numbers made at random. Numbers of equal digits and dates that are none are
left out: there milpa_text::personal is stricter on purpose. The same bytes each time.

Needs: python-stdnum. No network is used.
"""
import json
import pathlib
import random
import string
import sys

from stdnum import iban, luhn
from stdnum.ar import cbu, cuit
from stdnum.br import cnpj, cpf
from stdnum.cl import rut
from stdnum.co import nit
from stdnum.do import cedula
from stdnum.ec import ci, ruc as ruc_ec
from stdnum.gt import nit as nit_gt
from stdnum.mx import curp, rfc
from stdnum.pe import ruc as ruc_pe
from stdnum.py import ruc as ruc_py
from stdnum.uy import rut as rut_uy
from stdnum.ve import rif

DIGITS = string.digits
LETTERS = string.ascii_uppercase
# Valid numbers of each kind.
COUNT = 12


def some(chance, signs, count):
    return "".join(chance.choices(signs, k=count))


def date(chance):
    return f"{chance.randrange(100):02}{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"


def name(chance, count):
    # No name that the registry itself replaces: they have a vowel in the second place.
    return some(chance, "BCDFGHJKLMNPQRSTVWXYZ", count)


def curp_body(chance):
    state = chance.choice(["DF", "MC", "JC", "OC", "CS", "NE"])
    return name(chance, 4) + date(chance) + chance.choice("HM") + state + name(chance, 3) + chance.choice(DIGITS)


# Kind: body, signs of the check, number of checks, judge.
KINDS = {
    "CPF": (lambda c: some(c, DIGITS, 9), DIGITS, 2, cpf.is_valid),
    "CNPJ": (lambda c: some(c, DIGITS, 8) + "000" + c.choice("123456789"), DIGITS, 2, cnpj.is_valid),
    "CNPJ with letters": (lambda c: some(c, DIGITS + LETTERS, 12), DIGITS, 2, cnpj.is_valid),
    "CUIT": (lambda c: c.choice(["20", "23", "24", "27", "30", "33", "34"]) + some(c, DIGITS, 8), DIGITS, 1, cuit.is_valid),
    "CBU": (None, None, None, cbu.is_valid),
    "RUT CL": (lambda c: str(c.randrange(1_000_000, 99_999_999)), DIGITS + "K", 1, rut.is_valid),
    "RUT UY": (lambda c: f"{c.randrange(1, 23):02}{c.randrange(1, 10**6):06}001", DIGITS, 1, rut_uy.is_valid),
    "CURP": (curp_body, DIGITS, 1, curp.is_valid),
    "RFC": (lambda c: name(c, c.choice([3, 4])) + date(c) + some(c, DIGITS + LETTERS, 2), DIGITS + "A", 1, lambda number: rfc.is_valid(number, validate_check_digits=True)),
    "RUC PE": (lambda c: c.choice(["10", "15", "17", "20"]) + some(c, DIGITS, 8), DIGITS, 1, ruc_pe.is_valid),
    "RUC EC": (lambda c: f"{c.randrange(1, 25):02}" + c.choice(["0", "3", "5"]) + some(c, DIGITS, 6), DIGITS, 1, lambda number: ruc_ec.is_valid(number + "001")),
    "RUC PY": (lambda c: str(c.randrange(100_000, 99_999_999)), DIGITS, 1, ruc_py.is_valid),
    "CEDULA DO": (lambda c: some(c, DIGITS, 10), DIGITS, 1, cedula.is_valid),
    "CEDULA EC": (lambda c: f"{c.randrange(1, 25):02}" + c.choice("012345") + some(c, DIGITS, 6), DIGITS, 1, ci.is_valid),
    "NIT CO": (lambda c: c.choice("89") + some(c, DIGITS, 8), DIGITS, 1, nit.is_valid),
    "NIT GT": (lambda c: str(c.randrange(100_000, 99_999_999)), DIGITS + "K", 1, nit_gt.is_valid),
    "RIF": (lambda c: c.choice("VEJPG") + some(c, DIGITS, 8), DIGITS, 1, rif.is_valid),
    "card": (lambda c: c.choice(["4", "51", "34", "36", "6011"]) + some(c, DIGITS, 12), DIGITS, 1, luhn.is_valid),
    "IBAN": (None, None, None, lambda number: iban.is_valid(number, check_country=False)),
}
# Lengths and forms of the part behind the check digits.
ACCOUNTS = {"BR": "0" * 23 + "LA", "CR": "0" * 18, "DO": "AAAA" + "0" * 20, "GT": "A" * 24, "SV": "LLLL" + "0" * 20, "ES": "0" * 20, "DE": "0" * 18, "GB": "LLLL" + "0" * 14, "NO": "0" * 11, "PT": "0" * 21}


def valid(chance, kind):
    body, signs, checks, judge = KINDS[kind]
    if kind == "CBU":
        bank, account = some(chance, DIGITS, 7), some(chance, DIGITS, 13)
        return bank + cbu.calc_check_digit(bank) + account + cbu.calc_check_digit(account)
    if kind == "IBAN":
        country = chance.choice(list(ACCOUNTS))
        signs = {"0": DIGITS, "L": LETTERS, "A": DIGITS + LETTERS}
        account = "".join(chance.choice(signs[form]) for form in ACCOUNTS[country])
        return country + iban.calc_check_digits(country + "00" + account) + account
    while True:
        start = body(chance)
        found = [number for check in combinations(signs, checks) if judge(number := start + check)]
        if found and len(set(found[0])) > 1:
            return found[0]


def combinations(signs, count):
    return [""] if count == 0 else [sign + rest for sign in signs for rest in combinations(signs, count - 1)]


def wrong(chance, number):
    """Ways in which a number is mistyped."""
    digits = [at for at, sign in enumerate(number) if sign.isdigit()]
    for _ in range(2):
        at = chance.choice(digits)
        yield number[:at] + chance.choice(DIGITS.replace(number[at], "")) + number[at + 1 :]
    at = chance.randrange(len(number) - 1)
    yield number[:at] + number[at + 1] + number[at] + number[at + 2 :]
    at = chance.choice(digits)
    yield number[:at] + chance.choice("XYZ") + number[at + 1 :]
    yield number[:-1]


def dated(kind, number):
    """Whether what should be a date is one (`personal` looks at the month and the day alone)."""
    at = {"CURP": 4, "RFC": len(number) - 9}.get(kind)
    if at is None:
        return True
    part = number[at : at + 6]
    return part.isdigit() and 1 <= int(part[2:4]) <= 12 and 1 <= int(part[4:6]) <= 28


def main(out):
    chance = random.Random(3)
    kinds = {}
    for kind, (_, _, _, judge) in KINDS.items():
        rows = {}
        for _ in range(COUNT):
            number = valid(chance, kind)
            assert judge(number), (kind, number)
            for candidate in [number, *wrong(chance, number)]:
                if len(set(candidate)) > 1 and dated(kind, candidate):
                    rows[candidate] = bool(judge(candidate))
        kinds[kind] = rows
        print(kind, f"{sum(rows.values())} valid of {len(rows)}")
    rows = [valid for judged in kinds.values() for valid in judged.values()]
    print(f"{len(rows)} numbers of {len(kinds)} kinds, {sum(rows)} of them valid")
    pathlib.Path(out).write_text(json.dumps(kinds, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
