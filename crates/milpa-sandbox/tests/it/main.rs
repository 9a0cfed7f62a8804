//! Programs in the sandbox: what they give, how they end, and what they cannot do.

use milpa_sandbox::{Language, Limits, Sandbox, Session, Stop};
use proptest::prelude::*;

fn sandbox() -> &'static Sandbox {
    Sandbox::shared(Language::JavaScript).expect("the engine comes with the crate")
}

fn limits() -> Limits {
    Limits { fuel: 2_000_000_000, ..Limits::default() }
}

fn session() -> Session {
    sandbox().session("", limits())
}

fn run(program: &str, input: &str) -> Result<String, Stop> {
    let mut session = sandbox().session(input, limits());
    session.load(program).map(|()| session.output())
}

fn call(program: &str, name: &str, arguments: &str) -> Result<String, Stop> {
    let mut session = session();
    session.load(program)?;
    session.call(name, arguments)
}

#[test]
fn a_function_takes_and_gives_json() {
    let check = |program: &str, arguments: &str, expect: &str| {
        assert_eq!(call(program, "f", arguments).as_deref(), Ok(expect), "{program}");
    };
    check("function f(a, b) { return a + b; }", "[2, 3]", "5");
    check("const f = (x) => x.map((y) => y * 0.1);", "[[1, 3]]", "[0.1,0.30000000000000004]");
    check("let f = s => ({ largo: s.length, s })", r#"["ñandú"]"#, r#"{"largo":5,"s":"ñandú"}"#);
    check("async function f(x) { await null; return [x, null, true]; }", "[1]", "[1,null,true]");
    check("const f = () => new Promise(ok => setTimeout(() => ok('ya'), 1000));", "[]", "\"ya\"");
    check("var f = () => 2n ** 63n", "[]", "9223372036854775808");
    check(
        "var f = () => [1e20, -0, 1.5e300, 2 ** 53]",
        "[]",
        "[100000000000000000000,0,1.5e+300,9007199254740992]",
    );
    check("var f = (x) => x + '\\u0000!'", r#"["á\u0000"]"#, r#""á\u0000\u0000!""#);
    let object = "const o = { f: (x) => x };";
    assert_eq!(call(object, "o.f", "[[]]").as_deref(), Ok("[]"));
}

#[test]
fn text_goes_in_and_comes_out() {
    let sum = "const [a, b] = readline().split(' ').map(Number); console.log(a + b);";
    assert_eq!(run(sum, "2 40\n").as_deref(), Ok("42\n"));
    let node = "const lines = require('fs').readFileSync(0, 'utf8').trim().split('\\n');
        for (const l of lines) process.stdout.write(l.toUpperCase() + ';');
        print([1, 'a'], { x: 1 }, null, undefined, 3n, 'fin');";
    let expect = "ÁRBOL;B;[1,\"a\"] {\"x\":1} null undefined 3n fin\n";
    assert_eq!(run(node, "árbol\nb\n").as_deref(), Ok(expect));
    let order =
        "setTimeout(() => print('c'), 5); Promise.resolve().then(() => print('b')); print('a');
        setTimeout(() => print('d'), 5); setTimeout(() => print('x'), 1)";
    assert_eq!(run(order, "").as_deref(), Ok("a\nb\nx\nc\nd\n"));
}

#[test]
fn each_end_has_its_name() {
    let ends = |program: &str| run(program, "").unwrap_err();
    assert!(matches!(ends("let x = ;\n"), Stop::Syntax { line: 1, .. }), "{:?}", ends("let x = ;"));
    assert!(matches!(ends("let a = 1;\n}"), Stop::Syntax { line: 2, .. }));
    let thrown = ends("\n\nnull.x");
    assert!(
        matches!(&thrown, Stop::Exception { class, line: 3, .. } if class == "TypeError"),
        "{thrown:?}"
    );
    let rejected = ends("JSON.parse('{')");
    assert!(matches!(&rejected, Stop::Exception { class, .. } if class == "SyntaxError"));
    assert!(matches!(ends("throw 'basta'"), Stop::Exception { message, .. } if message == "basta"));
    assert_eq!(ends("while (true) {}"), Stop::OutOfFuel);
    assert_eq!(
        ends("for (;;) { try { for (;;) {} } catch {} finally { continue; } }"),
        Stop::OutOfFuel
    );
    assert_eq!(ends("/(a+)+$/.test('a'.repeat(60) + 'b')"), Stop::OutOfFuel);
    assert_eq!(ends("const f = () => { Promise.resolve().then(f); }; f();"), Stop::OutOfFuel);
    assert_eq!(ends("const a = []; for (;;) a.push(new ArrayBuffer(1e6));"), Stop::OutOfMemory);
    assert_eq!(
        ends("let s = 'ab'; for (;;) s += s;").to_string(),
        "threw InternalError: string too long (line 1)"
    );
    assert_eq!(ends("const f = (x) => f(x) + 1; f(1)"), Stop::TooDeep);
    assert_eq!(ends("for (;;) print('x'.repeat(1000));"), Stop::TooMuchOutput);
    let call = |program: &str| call(program, "f", "[]").unwrap_err();
    assert_eq!(call("const g = 1;"), Stop::NoFunction { name: "f".to_owned() });
    assert_eq!(call("const f = 1;"), Stop::NoFunction { name: "f".to_owned() });
    let not_data = |what: &str| Stop::NotData { what: what.to_owned() };
    assert_eq!(call("function f() {}"), not_data("undefined"));
    assert_eq!(call("const f = () => 2n ** 80n"), not_data("an integer of over 64 bits"));
    assert_eq!(call("const f = () => [NaN]"), not_data("the number NaN"));
    assert_eq!(call("const f = () => ({ x: new Map() })"), not_data("an object of Map"));
    assert_eq!(call("const f = () => [undefined]"), not_data("a value of type undefined"));
    assert_eq!(
        call("const f = () => { const a = []; a[0] = a; return a; }"),
        not_data("a value nested too deeply or in itself")
    );
    assert_eq!(call("const f = () => 'x'.repeat(100000)"), Stop::TooMuchOutput);
    assert_eq!(run("", "").as_deref(), Ok(""));
}

#[test]
fn calls_go_as_deep_as_elsewhere() {
    let depth = "const sum = (n) => (n === 0 ? 0 : n + sum(n - 1)); print(sum(9000));
        class Node { constructor(n) { this.next = n ? new Node(n - 1) : null; } } new Node(3000);
        print(JSON.stringify(JSON.parse('['.repeat(900) + ']'.repeat(900))).length);";
    assert_eq!(run(depth, "").as_deref(), Ok("40504500\n1800\n"));
}

#[test]
fn a_caught_shortage_is_no_end() {
    let program = "let caught = 0;
        try { const a = []; for (;;) a.push(new ArrayBuffer(1e6)); } catch (e) { caught++; }
        try { (function f() { f(); })(); } catch (e) { caught++; }
        print(caught);";
    assert_eq!(run(program, "").as_deref(), Ok("2\n"));
}

#[test]
fn nothing_outside_can_be_reached() {
    let program = "const found = ['std', 'os', 'fetch', 'XMLHttpRequest', 'WebSocket', 'load', 'Deno',
            'Worker', 'SharedArrayBuffer', 'WebAssembly', 'performance', 'crypto', 'globalThis.host']
            .filter((name) => typeof globalThis[name] !== 'undefined');
        print(found.join());
        for (const name of ['child_process', 'net', 'http', 'os', 'fs/promises']) {
            try { require(name); print('found', name); } catch {}
        }
        try { require('fs').readFileSync('/etc/passwd'); print('read'); } catch {}
        import('os').then(() => print('imported'), () => {});
        import('/etc/passwd').then(() => print('imported'), () => {});";
    let seen = run(program, "").unwrap();
    assert!(
        matches!(
            seen.trim(),
            "" | "SharedArrayBuffer"
                | "performance"
                | "performance,SharedArrayBuffer"
                | "SharedArrayBuffer,performance"
        ),
        "{seen}"
    );
}

#[test]
fn time_and_chance_are_the_same_each_time() {
    let program = "print(Date.now(), new Date().toString(), Math.random(), Math.random());";
    let first = run(program, "").unwrap();
    assert!(first.starts_with("94668480000"), "{first}");
    assert_eq!(first, run(program, "").unwrap());
}

#[test]
fn nothing_stays_for_the_next_program() {
    run("globalThis.secreto = 7; Array.prototype.map = () => 'roto'; JSON.stringify = null;", "")
        .unwrap();
    assert_eq!(
        run("print(typeof secreto, [1].map((x) => x))", "").as_deref(),
        Ok("undefined [1]\n")
    );
}

#[test]
fn a_session_that_was_stopped_stays_so() {
    let mut session = session();
    session.load("function f() { return 1; } function g() { for (;;) {} }").unwrap();
    assert_eq!(session.call("f", "[]").as_deref(), Ok("1"));
    assert_eq!(session.call("g", "[]"), Err(Stop::OutOfFuel));
    assert_eq!(session.call("f", "[]"), Err(Stop::OutOfFuel));
}

#[test]
fn fuel_does_not_depend_on_what_ran_before() {
    let program = "let s = 0; for (let i = 0; i < 1000; i++) s += i; print(s);";
    let used = || {
        let mut session = session();
        session.load(program).unwrap();
        session.fuel_used()
    };
    let first = used();
    run("print([3, 2].sort())", "").unwrap();
    assert_eq!(first, used());
    let limits = Limits { fuel: first - 1, ..Limits::default() };
    assert_eq!(sandbox().session("", limits).load(program), Err(Stop::OutOfFuel));
    let limits = Limits { fuel: first, ..Limits::default() };
    assert_eq!(sandbox().session("", limits).load(program), Ok(()));
}

/// Runs `tests` in a judge's engine that may call `f` of `program`.
fn judge(program: &str, tests: &str) -> Result<(), Stop> {
    let mut session = session();
    session.load(program)?;
    sandbox().judge(&["f"], session, limits())?.load(tests)
}

#[test]
fn a_judge_asks_without_telling() {
    let good = "const f = (x) => x * 2;";
    let tests = "assert(f(2) === 4); assert.deepEqual([f(1), { a: f(3) }], [2, { a: 6 }]);
        for (let i = 0; i < 20; i++) assert.equal(f(i), 2 * i);";
    assert_eq!(judge(good, tests), Ok(()));
    let wrong = judge("const f = (x) => x + 2;", tests).unwrap_err();
    let Stop::Exception { class, message, .. } = &wrong else { panic!("{wrong:?}") };
    assert_eq!(
        (class.as_str(), message.as_str()),
        ("AssertionError", "[3,{\"a\":5}] is not [2,{\"a\":6}]")
    );
    // What the program throws is told as the program's, unless the tests expect it.
    let throws = "function f(x) { if (x < 0) throw new RangeError('negativo'); return 2 * x; }";
    let stop = judge(throws, "f(-1)").unwrap_err();
    assert!(matches!(&stop, Stop::Exception { class, .. } if class == "RangeError"), "{stop:?}");
    assert_eq!(judge(throws, "assert.throws(() => f(-1)); assert(f(1) === 2)"), Ok(()));
    // Other stops cannot be taken for an exception.
    let expected = "assert.throws(() => f(1))";
    assert_eq!(judge("function f() { for (;;); }", expected), Err(Stop::OutOfFuel));
    assert!(matches!(judge("const f = () => f;", expected), Err(Stop::NotData { .. })));
    assert!(matches!(judge("const g = 1;", expected), Err(Stop::NoFunction { .. })));
    assert!(matches!(judge(good, expected), Err(Stop::Exception { .. })));
}

#[test]
fn a_program_cannot_change_its_judge() {
    let tests = "assert(f(2) === 4); assert.deepEqual(f([1]), [2]);";
    for attack in [
        "globalThis.assert = () => {}; assert.deepEqual = () => {}; const f = () => 0;",
        "Object.prototype.valueOf = () => 4; const f = () => ({});",
        "const f = () => ({ valueOf: () => 4, toJSON: () => 4 });",
        "JSON.stringify = () => '4'; JSON.parse = () => 4; const f = () => 1;",
        "Object.is = () => true; Array.prototype.every = () => true; const f = () => [9];",
        "const f = () => new Proxy({}, { get: () => 4 });",
        "const f = (x) => eval('throw null');",
        "print('+4'); print('assert'); const f = () => { throw { name: 'ProgramError' }; };",
        "Promise.prototype.then = () => 4; async function f() { return 4; }",
        "String.prototype.slice = () => '4'; RegExp.prototype.exec = null; const f = () => 5;",
        "const f = () => ({ __proto__: { 0: 2, length: 1 } });",
        "Error = class { constructor() { return 4; } }; const f = () => undefined;",
        "const f = (x) => { while (true) { try { f(x); } catch { return 1; } } };",
    ] {
        assert!(judge(attack, tests).is_err(), "{attack}");
    }
}

/// Pieces that programs are made of, in any order.
fn scraps() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("function f("),
        Just(") {"),
        Just("}"),
        Just("return "),
        Just("=> "),
        Just("`${"),
        Just("new "),
        Just("class A extends "),
        Just("async "),
        Just("await "),
        Just("yield "),
        Just("[...x]"),
        Just("/(a|b)*/u"),
        Just("0x"),
        Just("1n"),
        Just("\\u{"),
        Just("'"),
        Just("f("),
        Just("globalThis."),
        Just("print("),
        Just("; "),
        Just("try {"),
        Just("catch (e) {"),
        Just("Symbol.iterator"),
        Just("Array(1e9)"),
        Just("for (;;) "),
        Just("import("),
        Just("\u{0}"),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_program_harms_the_host(bytes in proptest::collection::vec(any::<u8>(), 0..200), scraps in scraps()) {
        let small = Limits { fuel: 200_000_000, memory_bytes: 4 << 20, ..Limits::default() };
        for program in [String::from_utf8_lossy(&bytes).into_owned(), scraps] {
            let mut session = sandbox().session(&program, small);
            let _ = session.load(&program);
            let _ = session.call("f", "[1]");
            let _ = session.call(&program, &program);
        }
    }
}
