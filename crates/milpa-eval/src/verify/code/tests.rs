use serde_json::json;

use super::*;
use crate::verify::{Outcome, Verifier};

fn verdict(tests: &Value, response: &str) -> Verdict {
    let mut tests = tests.clone();
    tests["language"] = json!("javascript");
    tests["limits"] = json!({ "fuel": 2_000_000_000_u64 });
    Verifier::Code { block: Block::Last }.verify(&tests.to_string(), response)
}

fn doubles() -> Value {
    json!({ "functions": ["f"], "tests": [
        { "arguments": [2], "result": 4 },
        { "arguments": [-1.5], "result": -3 },
        { "assert": "assert.equal(f(7), 14); assert(f(0.1) === 0.2, 'décimos');" },
    ] })
}

#[test]
fn verdicts_have_their_reasons() {
    let check = |response: &str, outcome: Outcome, reason: &str| {
        let verdict = verdict(&doubles(), response);
        assert_eq!(
            (verdict.outcome, verdict.reason.to_string().as_str()),
            (outcome, reason),
            "{response}"
        );
    };
    let (right, wrong) = (Outcome::Correct, Outcome::Incorrect);
    check("Claro:\n```js\nconst f = (x) => 2 * x;\n```\n¡Listo!", right, "passes 3 tests");
    check("function f(x) { return x ** 2; }", wrong, "test 2: gave 2.25, right is -3");
    let table = "const f = (x) => ({ 2: 4, '-1.5': -3, 7: 15 })[x];";
    check(table, wrong, "test 3: 15 is not 14");
    check("const f = (x) => x < 1 && x > 0 ? 0.3 : 2 * x", wrong, "test 3: décimos");
    check(
        "function f(x) { return 2 * x",
        wrong,
        "test 1: no program: unexpected token in expression: '' (line 1)",
    );
    check(
        "const f = (x) => {\n  return y * 2;\n}",
        wrong,
        "test 1: threw ReferenceError: 'y' is not defined (line 2)",
    );
    check("const f = (x) => { for (;;); }", wrong, "test 1: took more steps than it may");
    check(
        "const f = () => { const a = []; for (;;) a.push(new ArrayBuffer(1e6)); }",
        wrong,
        "test 1: took more memory than it may",
    );
    check(
        "const f = () => { for (;;) print('a'.repeat(999)); }",
        wrong,
        "test 1: wrote more than it may",
    );
    check("const doble = (x) => 2 * x;", wrong, "test 1: defines no function f");
    check("const f = (x) => {};", wrong, "test 1: gave undefined, which is not data");
    check("", Outcome::Unreadable, "no program stands in the response");
    check(
        "```python\nf = lambda x: 2 * x\n```",
        Outcome::Unreadable,
        "no program stands in the response",
    );
}

#[test]
fn output_is_compared_outside() {
    let sums = json!({ "tests": [{ "input": "1 2\n", "output": "3\n" }, { "input": "5 -5", "output": "0" }] });
    let read = "const [a, b] = readline().split(' ').map(Number);";
    assert!(verdict(&sums, &format!("{read} console.log(a + b)")).is_correct());
    assert!(!verdict(&sums, &format!("{read} console.log('La suma es', a + b)")).is_correct());
    assert!(!verdict(&sums, "console.log(3)").is_correct());
    assert!(!verdict(&sums, "").is_correct());
}

#[test]
fn no_trick_passes() {
    let tests = json!({ "functions": ["f"], "tests": [
        { "arguments": [[3, 1, 2]], "result": [1, 2, 3] },
        { "assert": "assert.deepEqual(f([2, 1]), [1, 2]); assert(f([9]).length === 1 && f([9])[0] === 9);" },
    ] });
    assert!(verdict(&tests, "const f = (a) => [...a].sort((x, y) => x - y);").is_correct());
    for trick in [
        // Equality, assertions and JSON of its own.
        "Object.prototype.valueOf = function () { return this; }; const f = (a) => a;",
        "Object.is = () => true; globalThis.assert = () => {}; const f = (a) => a;",
        "JSON.stringify = () => '[1,2,3]'; JSON.parse = () => [1, 2, 3]; const f = (a) => a;",
        "Array.prototype.toJSON = () => [1, 2, 3]; const f = (a) => a;",
        "const f = (a) => ({ toJSON: () => [1, 2, 3] });",
        "class Igual extends Array { equals() { return true; } } const f = () => new Igual();",
        "const f = () => new Proxy([], { get: (o, k) => (k === 'length' ? 3 : 1) });",
        "Array.prototype.every = () => true; Array.prototype.some = () => true; const f = (a) => a;",
        // Ends of its own, caught exceptions, markers of success.
        "process.exit?.(0); const f = () => quit(0);",
        "const f = () => { throw { name: 'AssertionError', passed: true }; };",
        "try { f } catch {} finally { print('ok'); print('PASSED'); } var f = () => 'passed';",
        "console.log('+[1,2,3]'); const f = () => '+[1,2,3]';",
        "const f = () => { try { throw 1 } finally { return true } };",
        // Looking for what is right.
        "const f = () => { try { null.x } catch (e) { return e.stack } };",
        "const f = (a) => (f.caller ?? arguments?.callee ?? Error().stack);",
        "const f = function () { return Object.values(globalThis).flat(); };",
        "const f = () => new Function('return this.expected ?? this.result ?? this.tests')();",
        "const f = (a) => require('fs').readFileSync('/proc/self/environ');",
        "const f = async () => (await import('fs')).readFileSync('tests.json');",
        // Half right.
        "let n = 0; const f = (a) => (n++ ? a : [1, 2, 3]);",
        "const f = (a) => a.sort().concat([]).map(String);",
        "const f = () => [1, 2, 3];",
    ] {
        assert!(!verdict(&tests, trick).is_correct(), "{trick}");
    }
}

#[test]
fn items_that_cannot_be_read_are_no_fault_of_the_model() {
    for tests in [
        "",
        "{}",
        r#"{"language":"cobol","tests":[]}"#,
        r#"{"language":"javascript","tests":[]}"#,
        r#"{"language":"javascript","tests":[{"arguments":[],"result":1}]}"#,
        r#"{"language":"javascript","tests":[{"assert":"assert(true)"}]}"#,
        r#"{"language":"javascript","functions":["f"],"tests":[{"arguments":[],"output":""}]}"#,
        r#"{"language":"javascript","functions":["f"],"tolerance":1,"tests":[{"arguments":[],"result":1}]}"#,
    ] {
        let verdict = Verifier::Code { block: Block::Last }.verify(tests, "let x;");
        assert!(matches!(verdict.reason, Reason::UnreadableGold { .. }), "{tests}: {verdict:?}");
    }
}

#[test]
fn code_before_the_program_counts() {
    let tests = json!({ "functions": ["f"], "before": "function f(x) {\n", "tests": [{ "arguments": [1], "result": 2 }] });
    assert!(verdict(&tests, "  return x + 1;\n}").is_correct());
}

#[test]
fn reasons_are_written_and_read_again() {
    let before = verdict(&doubles(), "const f = (x) => x;");
    let json = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), before);
    let stopped = verdict(&doubles(), "const f = (x) => x.a.b;");
    let json = serde_json::to_string(&stopped).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), stopped);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

    #[test]
    fn any_response_and_any_tests_give_a_verdict(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
        marks in "[`~\n jsfx(){};=>'\\\\]{0,60}",
    ) {
        let bytes = String::from_utf8_lossy(&bytes).into_owned();
        for response in [&bytes, &marks, &format!("```js\n{bytes}\n{marks}"), &format!("{marks}\n```\n{bytes}")] {
            proptest::prop_assert!(!verdict(&doubles(), response).is_correct());
            let verifier = Verifier::Code { block: Block::All };
            proptest::prop_assert!(!verifier.verify(response, response).is_correct());
        }
    }
}
