#!/usr/bin/env python3
"""Writes English answers with the verdicts of math-verify, for the tests of milpa-eval's verifiers.

  golden OUT   writes OUT: for each case the right answer, the response and whether math-verify takes it

The cases are this project's own; they cover what math-verify reads: numbers, fractions, roots, algebra,
equations, inequalities, intervals, sets, tuples, matrices, percentages, units and where an answer stands
in a text. The right answer is given between dollar signs, as math-verify asks for.

Needs: math-verify 0.9.0 with antlr4 4.13. No network is used.
"""
import json
import sys

from math_verify import parse, verify

# Right answer, responses.
CASES = [
    ("18", ["18", "$18$", r"\boxed{18}", "18.0", "The answer is 18.", "So she makes 18 dollars every day.",
            "The final answer is $18$. I hope it is correct.", "19", r"\boxed{81}", "#### 18", "180", "-18",
            r"We add 9 and 9. \boxed{18}", "The answer is 18 eggs."]),
    ("1234", ["1,234", "1234", "$1,234$", r"$1{,}234$", "1,235", "123", "$1234.00$", r"\boxed{1{,}234}"]),
    ("1000000", ["1,000,000", "$10^6$", r"$1 \times 10^6$", "10000000", r"\boxed{1,000,000}"]),
    ("0.5", ["1/2", r"$\frac{1}{2}$", ".5", "0.50", r"$\frac12$", "0.05", r"\boxed{\frac{2}{4}}", "$2^{-1}$"]),
    (r"\frac{1}{3}", ["1/3", "0.333333", "0.33", r"$\frac{2}{6}$", r"\boxed{\dfrac{1}{3}}", "3"]),
    (r"\frac{7}{4}", ["1.75", r"$1\frac{3}{4}$", "7/4", "4/7", r"\boxed{\tfrac{7}{4}}"]),
    (r"-\frac{3}{5}", ["-0.6", r"$\frac{-3}{5}$", r"$-\frac{3}{5}$", "0.6", "-3/5"]),
    (r"\sqrt{8}", [r"$2\sqrt{2}$", r"$\sqrt{8}$", "$8^{1/2}$", r"$\sqrt{2}$", "2.828427", "2.83"]),
    (r"\frac{\sqrt{2}}{2}", [r"$\frac{1}{\sqrt{2}}$", r"$\sqrt{\frac{1}{2}}$", r"$\frac{\sqrt{3}}{2}$"]),
    (r"\sqrt[3]{2}", [r"$2^{1/3}$", r"$\sqrt[3]{2}$", r"$\sqrt{2}$"]),
    (r"2\pi", [r"$2\pi$", r"$\pi \cdot 2$", r"$\frac{4\pi}{2}$", r"$\pi$", "6.283185"]),
    (r"x^2-1", [r"$(x-1)(x+1)$", r"$x^2-1$", r"$x^2+1$", r"$-1+x^2$"]),
    (r"(x+y)^2", [r"$x^2+2xy+y^2$", r"$x^2+y^2$", r"$(y+x)^2$"]),
    (r"\frac{x+1}{2}", [r"$\frac{1}{2}x+\frac{1}{2}$", r"$0.5(x+1)$", r"$x+\frac{1}{2}$"]),
    (r"2x+3", [r"$3+2x$", r"$2x-3$", r"$2(x+1.5)$"]),
    (r"x=5", ["5", "$x=5$", "x = 5", "6", r"\boxed{x=5}", "$x=6$"]),
    ("5", ["$x=5$", "$2+3=5$", r"\boxed{y = 5}", "$x=4$"]),
    (r"y=2x+1", ["$y=2x+1$", "$y=1+2x$", "$y=2x$"]),
    (r"x>5", ["$x>5$", "$5<x$", r"$x \geq 5$", r"$(5,\infty)$"]),
    (r"1<x\leq 3", [r"$(1,3]$", r"$1<x\le 3$", r"$[1,3]$"]),
    (r"(1,3]", [r"$(1,3]$", r"$(1, 3]$", r"$[1,3]$", r"$(1,3)$"]),
    (r"(-\infty,2)\cup(3,\infty)", [r"$(-\infty,2)\cup(3,\infty)$", r"$(3,\infty)\cup(-\infty,2)$",
                                    r"$(-\infty,2)$"]),
    (r"\{1,2,3\}", [r"$\{1,2,3\}$", r"$\{3,1,2\}$", r"$\{1,2\}$", r"\boxed{\{1,2,3\}}", r"$1,2,3$"]),
    (r"(2,3)", [r"$(2,3)$", r"$(3,2)$", r"\boxed{(2,3)}", r"$(2, 3)$"]),
    (r"(1,2,3)", [r"$(1,2,3)$", r"$(1,3,2)$", r"$(1,2)$"]),
    (r"\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}", [r"$\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}$",
                                                   r"$\begin{pmatrix}1 & 2\\3 & 5\end{pmatrix}$"]),
    (r"25\%", [r"$25\%$", "25%", "25 percent", "0.25", "26%", "25"]),
    ("25", ["25%", r"$25\%$", "25", "25.0"]),
    ("5", [r"$5\text{ cm}$", "5 cm", r"\boxed{5\text{ meters}}", r"$5\,\text{kg}$", "$5$"]),
    (r"90^\circ", [r"$90^\circ$", "90", r"$90^{\circ}$", "45"]),
    ("120", ["$5!$", "120", "$4!$"]),
    ("1024", ["$2^{10}$", "$32^2$", "$2^{11}$"]),
    ("3", [r"$\sqrt{9}$", r"$\log_2 8$", r"$|-3|$", r"$\frac{9}{3}$", r"$\frac{9}{2}$"]),
    ("0", ["$0$", "0.0", r"$\sin(0)$", "-0", "1"]),
    ("-5", ["-5", "$-5$", "5", r"\boxed{-5}", "−5"]),
    ("3.14", ["3.14", "3.140", "3.1", r"$\frac{157}{50}$", "3.15"]),
    (r"e^2", [r"$e^2$", r"$e \cdot e$", r"$2e$"]),
    (r"a^2b", [r"$ba^2$", r"$a^2b$", r"$ab^2$"]),
    (r"\infty", [r"$\infty$", r"$-\infty$", "5"]),
    (r"\$18", [r"$\$18$", "18", r"\boxed{\$18}", "$18", "17"]),
    ("7", ["There are 3 red and 4 blue balls, so the answer is 7.", "The answer is 7 or 8.", "I do not know.", ""]),
]


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "golden":
        sys.exit(__doc__)
    lines = []
    for gold, responses in CASES:
        parsed = parse(f"${gold}$")
        for response in responses:
            accepted = verify(parsed, parse(response))
            lines.append(json.dumps({"gold": gold, "response": response, "math_verify": accepted},
                                    ensure_ascii=False))
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print(f"{len(lines)} cases written, {sum(line.endswith('true}') for line in lines)} accepted by math-verify")


if __name__ == "__main__":
    main()
