//! QuickJS in WebAssembly: what its module imports and exports, and a session in it.
//!
//! The module is that of quickjs-emscripten, whose names are letters; [`export`] says what they
//! are, for the version whose hash [`HASH`] is. It knows nothing of tests.

use std::time::Instant;

use wasmi::{
    AsContextMut, Caller, CompilationMode, Config, Error, Instance, Linker, Memory, MemoryType,
    Module, Store, StoreLimits, StoreLimitsBuilder, TrapCode, TypedResumableCall, WasmParams,
    WasmResults,
};

use crate::{Limits, Stop};

/// `dist/emscripten-module.wasm` of the npm package `@jitl/quickjs-wasmfile-release-sync` 0.32.0.
static MODULE: &[u8] = include_bytes!("../data/quickjs.wasm");
/// BLAKE3 of [`MODULE`]; letters mean other functions in another build.
const HASH: &str = "17d5496d37c4dc5b06b08bcb4d20a9a998f8801a0409e0358667f7b1ed34defe";
const PRELUDE: &str = include_str!("js/prelude.js");
/// Name of the program in the stacks of errors.
const FILE: &str = "program.js";

/// The letters of exports.
mod export {
    pub(super) const INITIALIZE: &str = "u";
    pub(super) const MALLOC: &str = "v";
    pub(super) const FREE: &str = "M";
    pub(super) const SET_MEMORY_LIMIT: &str = "y";
    pub(super) const SET_STACK_LIMIT: &str = "D";
    pub(super) const NEW_RUNTIME: &str = "K";
    pub(super) const NEW_CONTEXT: &str = "N";
    pub(super) const FREE_VALUE: &str = "P";
    pub(super) const FREE_TEXT: &str = "S";
    pub(super) const UNDEFINED: &str = "F";
    pub(super) const NEW_STRING: &str = "_";
    pub(super) const TEXT_OF: &str = "$";
    pub(super) const JOB_PENDING: &str = "fa";
    pub(super) const RUN_JOBS: &str = "ga";
    pub(super) const CALL: &str = "ma";
    pub(super) const EXCEPTION_OF: &str = "na";
    pub(super) const EVALUATE: &str = "pa";
    pub(super) const NEW_FUNCTION: &str = "Da";
    pub(super) const ARGUMENT: &str = "Ea";
}

/// Bytes of a page of WebAssembly.
const PAGE: usize = 64 << 10;
/// Pages that the module starts with, as its own loader gives it.
const FIRST_PAGES: u32 = 256;
/// Most pages, as the module says.
const MOST_PAGES: u32 = 32768;
/// Largest memory that a session may ask for.
const MOST_MEMORY: usize = 1 << 30;
/// The image of memory is kept by blocks of so many bytes, those of zeros left out.
const BLOCK: usize = 4096;
/// Bytes of stack that QuickJS may use of the module's own 5 MiB: some 12,000 calls, as in Node.
const STACK: u32 = 2 << 20;
/// Fuel for starting the engine, and lent to functions of the host.
const OWN_FUEL: u64 = 10_000_000_000;
/// Fuel between two looks at the clock.
const SLICE: u64 = 1_000_000_000;
/// `JS_EVAL_FLAG_COMPILE_ONLY`.
const COMPILE_ONLY: u32 = 1 << 5;

/// A pointer in the memory of the module.
type Pointer = u32;

/// An error that ends a session with a [`Stop`] of its own.
#[derive(Debug)]
struct Halt(Stop);

impl std::fmt::Display for Halt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl wasmi::errors::HostError for Halt {}

fn halt(stop: Stop) -> Error {
    Error::host(Halt(stop))
}

/// What the functions of the host see.
struct State {
    memory: Option<Memory>,
    input: String,
    output: Vec<u8>,
    limits: Limits,
    caps: StoreLimits,
    started: Instant,
    /// Readings of the clock, each a millisecond after the last.
    clock: u64,
    /// The session that a judge asks, and the exception that it last gave.
    program: Option<Box<Session>>,
    exception: Option<Stop>,
}

/// The compiled module, and memory as it is after the prelude.
pub(crate) struct Engine {
    wasm: wasmi::Engine,
    module: Module,
    image: Vec<(usize, Box<[u8]>)>,
    pages: u64,
    runtime: Pointer,
    context: Pointer,
    command: Pointer,
}

impl Engine {
    pub(crate) fn new() -> Result<Self, Error> {
        if blake3::hash(MODULE).to_hex().as_str() != HASH {
            return Err(Error::new("quickjs.wasm is not the file that this build was made for"));
        }
        let mut config = Config::default();
        // Lazy compilation would take fuel from whoever comes first.
        config
            .compilation_mode(CompilationMode::Eager)
            .consume_fuel(true)
            .ignore_custom_sections(true)
            .set_max_recursion_depth(100_000)
            .set_max_stack_height(64 << 20);
        let wasm = wasmi::Engine::new(&config);
        let module = Module::new(&wasm, MODULE)?;
        let mut made =
            Self { wasm, module, image: Vec::new(), pages: 0, runtime: 0, context: 0, command: 0 };
        made.take_image()?;
        Ok(made)
    }

    /// Starts an engine from nothing, runs the prelude, and keeps what memory is then.
    fn take_image(&mut self) -> Result<(), Error> {
        let mut session = self.instantiate("", Limits::default(), None)?;
        session.run::<(), ()>(export::INITIALIZE, ())?;
        session.runtime = session.run(export::NEW_RUNTIME, ())?;
        session.run::<_, ()>(export::SET_STACK_LIMIT, (session.runtime, STACK))?;
        session.context = session.run(export::NEW_CONTEXT, (session.runtime, 0_u32))?;
        let make = session.evaluate(PRELUDE, "prelude.js", 0)?;
        let name = session.put("host")?;
        let host: Pointer =
            session.run(export::NEW_FUNCTION, (session.context, name, 2_u32, 0_u32, 1_u32))?;
        let command = session.apply(make, &[host])?;
        if session.exception_of(command)?.is_some() {
            return Err(Error::new("the prelude threw"));
        }
        self.runtime = session.runtime;
        self.context = session.context;
        self.command = command;
        let data = session.memory.data(&session.store);
        self.pages = session.memory.size(&session.store);
        self.image = data
            .chunks(BLOCK)
            .enumerate()
            .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
            .map(|(at, block)| (at * BLOCK, Box::from(block)))
            .collect();
        Ok(())
    }

    fn instantiate(
        &self,
        input: &str,
        limits: Limits,
        program: Option<Session>,
    ) -> Result<Session, Error> {
        // The engine's own pages come on top of what a program may take.
        let most = limits.memory_bytes.min(MOST_MEMORY) + (FIRST_PAGES as usize) * PAGE;
        let state = State {
            memory: None,
            input: input.to_owned(),
            output: Vec::new(),
            limits,
            caps: StoreLimitsBuilder::new().memory_size(most).build(),
            started: Instant::now(),
            clock: 0,
            program: program.map(Box::new),
            exception: None,
        };
        let mut store = Store::new(&self.wasm, state);
        store.limiter(|state| &mut state.caps);
        let memory = Memory::new(&mut store, MemoryType::new(FIRST_PAGES, Some(MOST_PAGES)))?;
        store.data_mut().memory = Some(memory);
        let mut linker = Linker::new(&self.wasm);
        linker.define("a", "a", memory)?;
        link(&mut linker)?;
        store.set_fuel(SLICE)?;
        let instance = linker.instantiate_and_start(&mut store, &self.module)?;
        store.set_fuel(0)?;
        Ok(Session {
            store,
            instance,
            memory,
            runtime: self.runtime,
            context: self.context,
            command: self.command,
            fuel: OWN_FUEL,
            stopped: None,
        })
    }

    pub(crate) fn session(&self, input: &str, limits: Limits, program: Option<Session>) -> Session {
        let mut session = self
            .instantiate(input, limits, program)
            .expect("the module was instantiated when the image was taken");
        let missing = self.pages.saturating_sub(session.memory.size(&session.store));
        if missing > 0 {
            session.memory.grow(&mut session.store, missing).expect("the image fits its limits");
        }
        let data = session.memory.data_mut(&mut session.store);
        for (at, block) in &self.image {
            data[*at..*at + block.len()].copy_from_slice(block);
        }
        let room = limits.memory_bytes.min(MOST_MEMORY) as u32;
        let set = session.run::<_, ()>(export::SET_MEMORY_LIMIT, (self.runtime, room));
        set.expect("setting a number does not fail");
        session.fuel = limits.fuel;
        session
    }
}

/// Defines what the module imports: no file, no network, no clock of the machine.
fn link(linker: &mut Linker<State>) -> Result<(), Error> {
    type At<'a> = Caller<'a, State>;
    const NONE: &str = "the engine asked for what it must not have";
    linker.func_wrap(
        "a",
        "b",
        |_: At<'_>, _: u32, _: u32, _: u32, _: u32| -> Result<(), Error> {
            Err(Error::new("an assertion of the engine failed"))
        },
    )?;
    linker.func_wrap("a", "q", |_: At<'_>| -> Result<(), Error> {
        Err(Error::new("the engine aborted"))
    })?;
    linker
        .func_wrap("a", "r", |_: At<'_>, _: u32| -> Result<(), Error> { Err(Error::new(NONE)) })?;
    linker.func_wrap("a", "l", |_: At<'_>| {})?;
    linker.func_wrap("a", "t", |_: At<'_>, _: u32, _: u32| {})?;
    linker.func_wrap("a", "j", |_: At<'_>, _: u32, _: f64| 0_u32)?;
    // Environment: empty.
    linker.func_wrap("a", "e", |_: At<'_>, _: u32, _: u32| 0_u32)?;
    linker.func_wrap("a", "f", |mut caller: At<'_>, count: u32, size: u32| {
        poke(&mut caller, count, &[0; 4])?;
        poke(&mut caller, size, &[0; 4])?;
        Ok::<u32, Error>(0)
    })?;
    // Files: none; what is written goes nowhere.
    linker.func_wrap("a", "d", |_: At<'_>, _: u32| 52_u32)?;
    linker.func_wrap("a", "o", |_: At<'_>, _: u32, _: u64, _: u32, _: u32| 70_u32)?;
    linker.func_wrap("a", "c", |_: At<'_>, _: u32, _: u32, _: u32, _: u32| 8_u32)?;
    // Modules: none.
    linker.func_wrap("a", "h", |_: At<'_>, _: u32, _: u32, _: u32| 0_u32)?;
    linker.func_wrap("a", "g", |_: At<'_>, _: u32, _: u32, _: u32, _: u32| 0_u32)?;
    // Time: each reading a millisecond after the last, from 2000-01-01, in UTC.
    linker.func_wrap("a", "p", |mut caller: At<'_>| {
        let state = caller.data_mut();
        state.clock += 1;
        946_684_800_000.0 + state.clock as f64
    })?;
    linker.func_wrap("a", "m", |mut caller: At<'_>, _: i64, out: u32| {
        // The engine reads the offset from UTC alone.
        poke(&mut caller, out, &[0; 40])
    })?;
    linker.func_wrap("a", "n", |mut caller: At<'_>, zone: u32, light: u32, a: u32, b: u32| {
        poke(&mut caller, zone, &[0; 4])?;
        poke(&mut caller, light, &[0; 4])?;
        poke(&mut caller, a, b"UTC\0")?;
        poke(&mut caller, b, b"UTC\0")
    })?;
    linker.func_wrap("a", "k", |mut caller: At<'_>, size: u32| {
        let memory = caller.data().memory.expect("set when the session was made");
        let pages = u64::from(size).div_ceil(PAGE as u64);
        let missing = pages.saturating_sub(memory.size(&caller));
        u32::from(memory.grow(caller.as_context_mut(), missing).is_ok())
    })?;
    linker.func_wrap("a", "i", |_: At<'_>, _: u32| 0_u32)?;
    linker.func_wrap("a", "s", host_call)?;
    Ok(())
}

fn poke(caller: &mut Caller<'_, State>, at: Pointer, bytes: &[u8]) -> Result<(), Error> {
    let memory = caller.data().memory.expect("set when the session was made");
    memory
        .write(caller.as_context_mut(), at as usize, bytes)
        .map_err(|error| Error::new(error.to_string()))
}

/// The one function that the prelude has from the host: `host(what, text)` gives text.
fn host_call(
    mut caller: Caller<'_, State>,
    context: Pointer,
    _this: Pointer,
    count: u32,
    arguments: Pointer,
    _function: u32,
) -> Result<Pointer, Error> {
    if count != 2 {
        return Ok(0);
    }
    // A slice of fuel must not end in here, where the engine could not go on after it.
    let left = caller.get_fuel()?;
    caller.set_fuel(left.saturating_add(OWN_FUEL))?;
    let value = serve(&mut caller, context, arguments)?;
    let used = left.saturating_add(OWN_FUEL).saturating_sub(caller.get_fuel()?);
    caller.set_fuel(left.saturating_sub(used))?;
    Ok(value)
}

fn serve(
    caller: &mut Caller<'_, State>,
    context: Pointer,
    arguments: Pointer,
) -> Result<Pointer, Error> {
    let guest = Guest { context };
    let what = guest.argument(caller, arguments, 0)?;
    let text = guest.argument(caller, arguments, 1)?;
    match what.as_str() {
        "write" => {
            let state = caller.data_mut();
            if state.output.len() + text.len() > state.limits.output_bytes {
                return Err(halt(Stop::TooMuchOutput));
            }
            state.output.extend_from_slice(text.as_bytes());
            Ok(0)
        }
        "input" => {
            let input = caller.data().input.clone();
            guest.string(caller, &input)
        }
        "ask" => {
            let answer = ask(caller.data_mut(), &text)?;
            guest.string(caller, &answer)
        }
        _ => Ok(0),
    }
}

/// Calls a function of the program for the judge: a line with its name, then its arguments.
fn ask(state: &mut State, request: &str) -> Result<String, Error> {
    let (name, arguments) = request.split_once('\n').unwrap_or((request, "[]"));
    let name: String = serde_json::from_str(name).unwrap_or_default();
    let Some(program) = state.program.as_mut() else { return Ok(String::new()) };
    match program.call(&name, arguments) {
        Ok(value) => Ok(value),
        Err(stop @ Stop::Exception { .. }) => {
            state.exception = Some(stop);
            Ok(String::new())
        }
        Err(stop) => Err(halt(stop)),
    }
}

/// Calls into the module from a function of the host.
struct Guest {
    context: Pointer,
}

impl Guest {
    fn run<P: WasmParams, R: WasmResults>(
        caller: &mut Caller<'_, State>,
        name: &str,
        arguments: P,
    ) -> Result<R, Error> {
        let export = caller.get_export(name).and_then(wasmi::Extern::into_func);
        let function = export.ok_or_else(|| Error::new("an export is missing"))?;
        function.typed::<P, R>(&caller)?.call(caller.as_context_mut(), arguments)
    }

    fn argument(
        &self,
        caller: &mut Caller<'_, State>,
        arguments: Pointer,
        at: u32,
    ) -> Result<String, Error> {
        let value: Pointer = Self::run(caller, export::ARGUMENT, (arguments, at))?;
        let text: Pointer = Self::run(caller, export::TEXT_OF, (self.context, value))?;
        let memory = caller.data().memory.expect("set when the session was made");
        let most = caller.data().limits.output_bytes;
        let copied = text_at(memory.data(&caller), text, most)?;
        Self::run::<_, ()>(caller, export::FREE_TEXT, (self.context, text))?;
        Ok(copied)
    }

    fn string(&self, caller: &mut Caller<'_, State>, text: &str) -> Result<Pointer, Error> {
        let at: Pointer = Self::run(caller, export::MALLOC, text.len() as u32 + 1)?;
        if at == 0 {
            return Err(halt(Stop::OutOfMemory));
        }
        poke(caller, at, text.as_bytes())?;
        poke(caller, at + text.len() as u32, &[0])?;
        let value = Self::run(caller, export::NEW_STRING, (self.context, at))?;
        Self::run::<_, ()>(caller, export::FREE, at)?;
        Ok(value)
    }
}

/// The text that ends with a zero byte, of `most` bytes at most.
fn text_at(data: &[u8], at: Pointer, most: usize) -> Result<String, Error> {
    let rest = data.get(at as usize..).unwrap_or_default();
    if at == 0 {
        return Err(halt(Stop::OutOfMemory));
    }
    match rest.iter().take(most + 1).position(|byte| *byte == 0) {
        Some(end) => Ok(String::from_utf8_lossy(&rest[..end]).into_owned()),
        None => Err(halt(Stop::TooMuchOutput)),
    }
}

/// A fresh engine with at most one program in it.
pub struct Session {
    store: Store<State>,
    instance: Instance,
    memory: Memory,
    runtime: Pointer,
    context: Pointer,
    command: Pointer,
    /// Fuel that was not given to the store yet.
    fuel: u64,
    /// The stop after which nothing runs any more.
    stopped: Option<Stop>,
}

impl Session {
    /// Runs `program` from top to bottom, then its promises and timers.
    ///
    /// # Errors
    /// How it ended, if not by itself.
    pub fn load(&mut self, program: &str) -> Result<(), Stop> {
        self.guard(|session| {
            let compiled = session.evaluate(program, FILE, COMPILE_ONLY)?;
            if let Some(error) = session.exception_of(compiled)? {
                let stop = session.describe(error)?;
                return Ok(Err(match stop {
                    Stop::Exception { class, message, line } if class == "SyntaxError" => {
                        Stop::Syntax { message, line }
                    }
                    other => other,
                }));
            }
            session.release(compiled)?;
            let value = session.evaluate(program, FILE, 0)?;
            if let Some(error) = session.exception_of(value)? {
                return Ok(Err(session.describe(error)?));
            }
            session.release(value)?;
            session.run_jobs()
        })
    }

    /// Calls the function `name` of the program with a JSON array of arguments; gives JSON.
    ///
    /// # Errors
    /// How it ended, if it gave nothing; a name that is none.
    pub fn call(&mut self, name: &str, arguments: &str) -> Result<String, Stop> {
        let none = || Stop::NoFunction { name: name.chars().take(200).collect() };
        if !is_path(name) {
            return Err(none());
        }
        self.guard(|session| {
            let function = session.evaluate(name, "name.js", 0)?;
            if let Some(error) = session.exception_of(function)? {
                // A name that is not defined, or a getter that throws.
                session.release(error)?;
                return Ok(Err(none()));
            }
            let kind = session.command("kind", "", Some(function))?;
            if !matches!(kind, Ok(value) if session.text(value)? == "function") {
                return Ok(Err(none()));
            }
            if let Err(stop) = session.command("call", arguments, Some(function))? {
                return Ok(Err(stop));
            }
            session.release(function)?;
            if let Err(stop) = session.run_jobs()? {
                return Ok(Err(stop));
            }
            let answer = match session.command("take", "", None)? {
                Ok(value) => session.text(value)?,
                Err(stop) => return Ok(Err(stop)),
            };
            Ok(match answer.split_at_checked(1) {
                Some(("+", value)) => Ok(value.to_owned()),
                Some((_, what)) => Err(Stop::NotData { what: what.to_owned() }),
                None => Err(Stop::NotData { what: "nothing".to_owned() }),
            })
        })
    }

    /// What was written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.store.data().output).into_owned()
    }

    /// Fuel used so far, without that of a program that this session judges.
    pub fn fuel_used(&self) -> u64 {
        let left = self.fuel + self.store.get_fuel().unwrap_or(0);
        self.store.data().limits.fuel.saturating_sub(left)
    }

    pub(crate) fn prepare_judge(&mut self, names: &[&str]) -> Result<(), Stop> {
        for name in names {
            if !is_path(name) || name.contains('.') {
                return Err(Stop::NoFunction { name: (*name).to_owned() });
            }
            self.guard(|session| Ok(session.command("stand_in", name, None)?.map(|_| ())))?;
        }
        self.guard(|session| Ok(session.command("judge", "", None)?.map(|_| ())))
    }

    /// Runs what may trap, and says why it did; after a trap the session is over.
    fn guard<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<Result<T, Stop>, Error>,
    ) -> Result<T, Stop> {
        if let Some(stop) = &self.stopped {
            return Err(stop.clone());
        }
        match work(self) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(stop)) => Err(self.of_program(stop)),
            Err(error) => {
                let stop = stop_of(&error);
                self.stopped = Some(stop.clone());
                Err(stop)
            }
        }
    }

    /// What a judge did not catch is told as the program threw it.
    fn of_program(&mut self, stop: Stop) -> Stop {
        match &stop {
            Stop::Exception { class, .. } if class == "ProgramError" => {
                self.store.data_mut().exception.take().unwrap_or(stop)
            }
            _ => stop,
        }
    }

    /// Calls an export in slices of fuel, with a look at the clock between them.
    fn run<P: WasmParams, R: WasmResults>(&mut self, name: &str, arguments: P) -> Result<R, Error> {
        let function = self.instance.get_typed_func::<P, R>(&self.store, name)?;
        self.next_slice()?;
        let mut call = function.call_resumable(&mut self.store, arguments)?;
        loop {
            call = match call {
                TypedResumableCall::Finished(value) => {
                    self.fuel += self.store.get_fuel()?;
                    self.store.set_fuel(0)?;
                    return Ok(value);
                }
                TypedResumableCall::HostTrap(trap) => return Err(halt(stop_of(trap.host_error()))),
                TypedResumableCall::OutOfFuel(rest) => {
                    let state = self.store.data();
                    if state.started.elapsed() > state.limits.deadline() {
                        return Err(halt(Stop::OutOfTime));
                    }
                    if self.fuel < rest.required_fuel() {
                        return Err(TrapCode::OutOfFuel.into());
                    }
                    self.next_slice()?;
                    rest.resume(&mut self.store)?
                }
            }
        }
    }

    /// Gives the store fuel of what is left.
    fn next_slice(&mut self) -> Result<(), Error> {
        let left = self.store.get_fuel()?;
        let slice = self.fuel.min(SLICE);
        self.fuel -= slice;
        self.store.set_fuel(left + slice)
    }

    /// Copies text into the module, with a zero byte at its end.
    fn put(&mut self, text: &str) -> Result<Pointer, Error> {
        let at: Pointer = self.run(export::MALLOC, text.len() as u32 + 1)?;
        if at == 0 {
            return Err(halt(Stop::OutOfMemory));
        }
        let data = self.memory.data_mut(&mut self.store);
        let room = data.get_mut(at as usize..at as usize + text.len() + 1);
        let room = room.ok_or_else(|| Error::new("the engine's heap is broken"))?;
        room[..text.len()].copy_from_slice(text.as_bytes());
        room[text.len()] = 0;
        Ok(at)
    }

    fn evaluate(&mut self, code: &str, file: &str, flags: u32) -> Result<Pointer, Error> {
        let (length, code, file) = (code.len() as u32, self.put(code)?, self.put(file)?);
        let arguments = (self.context, code, length, file, 0_u32, flags);
        let value = self.run(export::EVALUATE, arguments)?;
        self.run::<_, ()>(export::FREE, file)?;
        self.run::<_, ()>(export::FREE, code)?;
        Ok(value)
    }

    fn apply(&mut self, function: Pointer, arguments: &[Pointer]) -> Result<Pointer, Error> {
        let this: Pointer = self.run(export::UNDEFINED, ())?;
        let list: Pointer = self.run(export::MALLOC, 4 * arguments.len() as u32 + 4)?;
        if list == 0 {
            return Err(halt(Stop::OutOfMemory));
        }
        for (at, argument) in arguments.iter().enumerate() {
            let place = list as usize + 4 * at;
            self.memory
                .write(&mut self.store, place, &argument.to_le_bytes())
                .map_err(|error| Error::new(error.to_string()))?;
        }
        let count = arguments.len() as u32;
        let value = self.run(export::CALL, (self.context, function, this, count, list))?;
        self.run::<_, ()>(export::FREE, list)?;
        Ok(value)
    }

    /// Runs a command of the prelude.
    fn command(
        &mut self,
        name: &str,
        text: &str,
        value: Option<Pointer>,
    ) -> Result<Result<Pointer, Stop>, Error> {
        let result = self.command_unchecked(name, text, value)?;
        match self.exception_of(result)? {
            Some(error) => Ok(Err(self.describe(error)?)),
            None => Ok(Ok(result)),
        }
    }

    fn command_unchecked(
        &mut self,
        name: &str,
        text: &str,
        value: Option<Pointer>,
    ) -> Result<Pointer, Error> {
        let name = self.string(name)?;
        let text = self.string(text)?;
        let mut arguments = vec![name, text];
        arguments.extend(value);
        let result = self.apply(self.command, &arguments)?;
        self.release(name)?;
        self.release(text)?;
        Ok(result)
    }

    fn string(&mut self, text: &str) -> Result<Pointer, Error> {
        let at = self.put(text)?;
        let value = self.run(export::NEW_STRING, (self.context, at))?;
        self.run::<_, ()>(export::FREE, at)?;
        Ok(value)
    }

    fn text(&mut self, value: Pointer) -> Result<String, Error> {
        let at: Pointer = self.run(export::TEXT_OF, (self.context, value))?;
        let most = self.store.data().limits.output_bytes;
        let text = text_at(self.memory.data(&self.store), at, most)?;
        self.run::<_, ()>(export::FREE_TEXT, (self.context, at))?;
        self.release(value)?;
        Ok(text)
    }

    fn release(&mut self, value: Pointer) -> Result<(), Error> {
        self.run(export::FREE_VALUE, (self.context, value))
    }

    fn exception_of(&mut self, value: Pointer) -> Result<Option<Pointer>, Error> {
        let error: Pointer = self.run(export::EXCEPTION_OF, (self.context, value))?;
        Ok((error != 0).then_some(error))
    }

    /// Runs promises, and timers when no promise is left.
    fn run_jobs(&mut self) -> Result<Result<(), Stop>, Error> {
        loop {
            while self.run::<_, u32>(export::JOB_PENDING, self.runtime)? != 0 {
                let out: Pointer = self.run(export::MALLOC, 4_u32)?;
                let done: Pointer = self.run(export::RUN_JOBS, (self.runtime, 64_u32, out))?;
                self.run::<_, ()>(export::FREE, out)?;
                if let Some(error) = self.exception_of(done)? {
                    return Ok(Err(self.describe(error)?));
                }
                self.release(done)?;
            }
            match self.command("timer", "", None)? {
                Ok(value) if self.text(value)?.is_empty() => return Ok(Ok(())),
                Ok(_) => {}
                Err(stop) => return Ok(Err(stop)),
            }
        }
    }

    /// The stop that an uncaught value is.
    fn describe(&mut self, error: Pointer) -> Result<Stop, Error> {
        let described = self.command_unchecked("describe", "", Some(error))?;
        if self.exception_of(described)?.is_some() {
            // Describing it failed as well, most likely for want of memory.
            return Ok(Stop::OutOfMemory);
        }
        let text = self.text(described)?;
        let [class, message, stack]: [String; 3] = serde_json::from_str(&text).unwrap_or_default();
        Ok(match (class.as_str(), message.as_str()) {
            ("InternalError", "out of memory") => Stop::OutOfMemory,
            (
                "InternalError" | "RangeError",
                "stack overflow" | "Maximum call stack size exceeded",
            ) => Stop::TooDeep,
            _ => Stop::Exception { class, message, line: line_of(&stack) },
        })
    }
}

/// The first line of the program that a stack names.
fn line_of(stack: &str) -> u32 {
    let Some(at) = stack.find(FILE) else { return 0 };
    let digits = stack[at + FILE.len()..].trim_start_matches(':');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Whether `name` is `a` or `a.b`, each part an identifier of ASCII.
fn is_path(name: &str) -> bool {
    name.len() <= 200
        && name.split('.').all(|part| {
            let mut characters = part.chars();
            characters.next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '$'))
                && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
        })
}

fn stop_of(error: &Error) -> Stop {
    if let Some(Halt(stop)) = error.downcast_ref::<Halt>() {
        return stop.clone();
    }
    match error.as_trap_code() {
        Some(TrapCode::OutOfFuel) => Stop::OutOfFuel,
        Some(TrapCode::StackOverflow) => Stop::TooDeep,
        _ => Stop::Crashed { what: error.to_string() },
    }
}
