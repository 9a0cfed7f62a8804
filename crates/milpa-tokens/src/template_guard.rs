//! Renders Jinja with a bound on what it allocates.
//!
//! minijinja bounds instructions (fuel) and recursion, but `x ~ x` thirty times is a gigabyte for a
//! hundred instructions. So every instruction that can make a value grow (`+`, `~`, `*`, slices,
//! lists, maps, filters) is replaced one for one by a call that charges its operands' size to a
//! budget first; text that is written is charged by the formatter, methods by `python_methods`.
//! Filters that are not listed here are refused.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value, context,
    escape_formatter,
    machinery::{self, CodeGenerator, Instruction, Instructions, Token},
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};

use crate::{chat::Marks, conversation::Moment, python_methods, python_values};

/// Instructions that one rendering may take.
const FUEL: u64 = 500_000;
/// Deepest nesting of macros and recursive loops.
const RECURSION_LIMIT: usize = 64;
/// Bytes that one rendering may handle besides [`INPUT_FACTOR`] times its messages.
const BUDGET: u64 = 64 << 20;
/// How often a template may handle its messages: concatenations handle both operands.
const INPUT_FACTOR: u64 = 64;
/// Bytes of plain template text that all instructions together could write.
const PLAIN_TEXT_LIMIT: u64 = 1 << 30;
/// What an item of a list or map costs besides its text.
const ITEM_COST: u64 = 32;
/// Deepest nesting of values.
const MAX_DEPTH: usize = 64;
/// Products in a template: the compiler works out constant ones, each at most 100 MB.
const MAX_PRODUCTS: usize = 8;
const NAME: &str = "chat_template";

/// Filters that may be used, and the name of the call that stands for each; no variable of a
/// template can have such a name.
const FILTERS: [(&str, &str); 38] = [
    ("abs", "|abs"),
    ("attr", "|attr"),
    ("bool", "|bool"),
    ("capitalize", "|capitalize"),
    ("count", "|count"),
    ("d", "|d"),
    ("default", "|default"),
    ("dictsort", "|dictsort"),
    ("e", "|e"),
    ("escape", "|escape"),
    ("first", "|first"),
    ("float", "|float"),
    ("indent", "|indent"),
    ("int", "|int"),
    ("items", "|items"),
    ("join", "|join"),
    ("last", "|last"),
    ("length", "|length"),
    ("list", "|list"),
    ("lower", "|lower"),
    ("map", "|map"),
    ("max", "|max"),
    ("min", "|min"),
    ("reject", "|reject"),
    ("rejectattr", "|rejectattr"),
    ("replace", "|replace"),
    ("reverse", "|reverse"),
    ("round", "|round"),
    ("safe", "|safe"),
    ("select", "|select"),
    ("selectattr", "|selectattr"),
    ("sort", "|sort"),
    ("string", "|string"),
    ("title", "|title"),
    ("tojson", "|tojson"),
    ("trim", "|trim"),
    ("unique", "|unique"),
    ("upper", "|upper"),
];

fn guarded_filter(name: &str) -> Option<(&'static str, &'static str)> {
    FILTERS.into_iter().find(|(filter, _)| *filter == name)
}

/// Bytes that a rendering may still handle; clones share the count.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<AtomicU64>);

impl Budget {
    fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Takes `bytes` from the budget.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        if bytes > left {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "the template handles more text than its limit allows",
            ));
        }
        self.0.store(left - bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Charges what `values` would take when written out, shared parts as often as they appear.
    pub(crate) fn charge_values(&self, values: &[Value]) -> Result<(), Error> {
        values.iter().try_for_each(|value| self.charge_value(value, 0))
    }

    fn charge_value(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
        }
        self.charge(ITEM_COST)?;
        match value.kind() {
            ValueKind::String => self.charge(value.as_str().map_or(0, str::len) as u64),
            ValueKind::Bytes => self.charge(value.as_bytes().map_or(0, <[u8]>::len) as u64),
            ValueKind::Seq => {
                value.try_iter()?.try_for_each(|item| self.charge_value(&item, depth + 1))
            }
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                self.charge_value(&key, depth + 1)?;
                self.charge_value(&value.get_item(&key)?, depth + 1)
            }),
            // Ranges and loops: made of numbers, or read once.
            ValueKind::Iterable => self.charge(value.len().unwrap_or(0) as u64 * ITEM_COST),
            _ => Ok(()),
        }
    }
}

/// What a rendering is told besides its variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    /// Stand around the assistant's parts.
    pub(crate) marks: Marks,
    /// What `strftime_now` tells.
    pub(crate) now: Option<Moment>,
}

/// The functions that write the marks at the beginning and the end of `{% generation %}` blocks.
pub(crate) const START: &str = "__generation_start";
pub(crate) const END: &str = "__generation_end";

/// Whose Jinja it is: what the environment that a template was written for does by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// transformers' chat templates: lines of tags alone leave no trace.
    Chat,
    /// LM Evaluation Harness: white space stays, what is undefined is an error, and values are
    /// written as Python writes them.
    Document,
}

/// Checks that `source` is a template that can be rendered.
pub(crate) fn check(source: &str, dialect: Dialect) -> Result<(), Error> {
    compile(source, dialect).map(drop)
}

/// Renders `source`; `input_bytes` is the length of the texts in `context`.
pub(crate) fn render(
    source: &str,
    context: Value,
    input_bytes: u64,
    surroundings: Surroundings,
    dialect: Dialect,
) -> Result<String, Error> {
    let (instructions, blocks) = compile(source, dialect)?;
    let budget = Budget::new(BUDGET.saturating_add(input_bytes.saturating_mul(INPUT_FACTOR)));
    let longest = blocks.values().chain([&instructions]).map(longest_plain_text).max().unwrap_or(0);
    let mut environment = environment(&budget, surroundings);
    if dialect == Dialect::Document {
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let own = budget.clone();
        environment.set_formatter(move |output, _, value| {
            own.charge_value(value, 0)?;
            let mut text = String::new();
            if let Some(plain) = value.as_str() {
                text.push_str(plain);
            } else if value.is_undefined() {
                return Err(Error::new(ErrorKind::UndefinedError, "a field is missing"));
            } else {
                python_values::write_repr(value, &mut text)?;
            }
            output.write_str(&text).map_err(Error::from)
        });
    }
    environment.set_fuel(Some(FUEL.min(PLAIN_TEXT_LIMIT / longest.max(1))));
    let mut text = String::new();
    {
        let mut output = machinery::make_string_output(&mut text);
        machinery::eval(
            &environment,
            &instructions,
            context,
            &blocks,
            &mut output,
            AutoEscape::None,
        )?;
    }
    Ok(text)
}

type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

/// Compiles a template and puts guarded calls in the place of what can grow.
fn compile(source: &str, dialect: Dialect) -> Result<Compiled<'_>, Error> {
    let chat = dialect == Dialect::Chat;
    let syntax = SyntaxConfig::builder()
        .trim_blocks(chat)
        .lstrip_blocks(chat)
        .keep_trailing_newline(!chat)
        .build()?;
    let mut products = 0;
    for token in machinery::tokenize(source, false, syntax.clone()) {
        products += usize::from(matches!(token?.0, Token::Mul));
    }
    if products > MAX_PRODUCTS {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("it has more than {MAX_PRODUCTS} products"),
        ));
    }
    let tree = machinery::parse(source, NAME, syntax)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (mut instructions, mut blocks) = generator.finish();
    guard(&mut instructions)?;
    for block in blocks.values_mut() {
        guard(block)?;
    }
    Ok((instructions, blocks))
}

fn guard(instructions: &mut Instructions<'_>) -> Result<(), Error> {
    let narrow = |count: usize| {
        u16::try_from(count)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "a list is too long"))
    };
    for index in 0.. {
        let Some(instruction) = instructions.get_mut(index) else { break };
        let (name, count) = match *instruction {
            Instruction::Add => ("+", Some(2)),
            Instruction::StringConcat => ("~", Some(2)),
            Instruction::Mul => ("*", Some(2)),
            Instruction::Slice => ("[:]", Some(4)),
            Instruction::BuildList(count) => ("[]", count.map(narrow).transpose()?),
            Instruction::BuildTuple(count) => ("()", count.map(narrow).transpose()?),
            Instruction::BuildMap(pairs) => ("{}", Some(narrow(pairs * 2)?)),
            Instruction::ApplyFilter(filter, count, _) => {
                let (_, name) = guarded_filter(filter).ok_or_else(|| unknown_filter(filter))?;
                (name, count)
            }
            _ => continue,
        };
        *instruction = Instruction::CallFunction(name, count);
    }
    Ok(())
}

fn unknown_filter(name: &str) -> Error {
    Error::new(ErrorKind::UnknownFilter, format!("the filter {name} is not available"))
}

fn longest_plain_text(instructions: &Instructions<'_>) -> u64 {
    (0..)
        .map_while(|index| instructions.get(index))
        .map(|instruction| match instruction {
            Instruction::EmitRaw(text) => text.len() as u64,
            _ => 0,
        })
        .max()
        .unwrap_or(0)
}

/// The environment with everything that a template may call.
fn environment(budget: &Budget, surroundings: Surroundings) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(RECURSION_LIMIT);
    let own = budget.clone();
    environment.set_unknown_method_callback(move |_, value, method, arguments| {
        own.charge_values(std::slice::from_ref(value))?;
        own.charge_values(arguments)?;
        python_methods::call(&own, value, method, arguments)
    });
    let own = budget.clone();
    environment.set_formatter(move |output, state, value| {
        own.charge_value(value, 0)?;
        escape_formatter(output, state, value)
    });
    // In Jinja, none cannot be iterated over; what is undefined is like an empty list.
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Map | Iterable | String | Undefined)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    for (name, mark) in [(START, surroundings.marks.start), (END, surroundings.marks.end)] {
        environment.add_function(name, move |_: Kwargs| Value::from(mark.to_string()));
    }
    if let Some(now) = surroundings.now {
        environment.add_function("strftime_now", move |format: &str| {
            now.format(format).map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
        });
    }
    for (name, work) in [
        ("+", add as fn(&Budget, &[Value]) -> Result<Value, Error>),
        ("~", |_, parts| Ok(parts.iter().map(Value::to_string).collect::<String>().into())),
        ("*", multiply),
        ("[:]", slice),
        ("[]", |_, items| Ok(Value::from(items.to_vec()))),
        ("()", |_, items| Ok(Value::from(minijinja::value::Tuple::from(items.to_vec())))),
        ("{}", |_, items| {
            let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Ok(Value::from_pairs(pairs))
        }),
    ] {
        let own = budget.clone();
        environment.add_function(name, move |operands: Rest<Value>| -> Result<Value, Error> {
            own.charge_values(&operands)?;
            work(&own, &operands)
        });
    }
    for (name, call) in FILTERS {
        let own = budget.clone();
        environment.add_function(
            call,
            move |state: &mut State<'_, '_>,
                  operands: Rest<Value>,
                  options: Kwargs|
                  -> Result<Value, Error> {
                let mut operands = operands.0;
                if options.args().next().is_some() {
                    operands.push(Value::from(options));
                }
                own.charge_values(&operands)?;
                if let ("map", Some(inner)) = (name, operands.get(1).and_then(|v| v.as_str()))
                    && guarded_filter(inner).is_none()
                {
                    return Err(unknown_filter(inner));
                }
                state.apply_filter(name, &operands)
            },
        );
    }
    let own = budget.clone();
    environment
        .add_filter("tojson", move |value: &Value, options: Kwargs| to_json(&own, value, &options));
    let own = budget.clone();
    environment.add_filter(
        "join",
        move |parts: &Value, separator: Option<&str>, options: Kwargs| {
            let attribute: Option<&str> = options.get("attribute")?;
            options.assert_all_used()?;
            let picked = match attribute {
                Some(name) => parts
                    .try_iter()?
                    .map(|part| part.get_attr(name))
                    .collect::<Result<Value, _>>()?,
                None => parts.clone(),
            };
            python_methods::join(&own, separator.unwrap_or_default(), &picked)
        },
    );
    let own = budget.clone();
    environment.add_filter("replace", move |text: &str, from: &str, to: &str| {
        python_methods::replace(&own, text, from, to, None)
    });
    let own = budget.clone();
    environment.add_filter(
        "indent",
        move |text: &str, width: Option<usize>, first: Option<bool>, options: Kwargs| {
            let width = width.or(options.get("width")?).unwrap_or(4);
            let first = first.or(options.get("first")?).unwrap_or(false);
            options.assert_all_used()?;
            indent(&own, text, width, first)
        },
    );
    environment
}

/// Works out an expression over `a`, `b`, `c` and `d` as minijinja does.
fn evaluate(expression: &str, operands: &[Value]) -> Result<Value, Error> {
    let operand = |index: usize| operands.get(index).cloned().unwrap_or_default();
    Environment::new()
        .compile_expression(expression)?
        .eval(context! { a => operand(0), b => operand(1), c => operand(2), d => operand(3) })
}

fn add(_: &Budget, operands: &[Value]) -> Result<Value, Error> {
    match operands {
        [a, b] if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) => {
            Ok(Value::from(format!("{a}{b}")))
        }
        _ => evaluate("a + b", operands),
    }
}

fn multiply(budget: &Budget, operands: &[Value]) -> Result<Value, Error> {
    if let [a, b] = operands {
        let count = a.as_usize().or(b.as_usize()).unwrap_or(0) as u64;
        for value in [a, b] {
            let length = match value.kind() {
                ValueKind::String => value.as_str().map_or(0, str::len),
                ValueKind::Seq | ValueKind::Iterable => {
                    value.len().unwrap_or(0).saturating_mul(ITEM_COST as usize)
                }
                _ => 0,
            };
            budget.charge(count.saturating_mul(length as u64))?;
        }
    }
    evaluate("a * b", operands)
}

fn slice(_: &Budget, operands: &[Value]) -> Result<Value, Error> {
    evaluate("a[b:c:d]", operands)
}

fn indent(budget: &Budget, text: &str, width: usize, first: bool) -> Result<Value, Error> {
    let lines = text.split('\n').count() as u64;
    budget.charge(lines.saturating_mul(width as u64))?;
    let margin = " ".repeat(width);
    let mut indented = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        // Jinja leaves the first line and blank lines as they are.
        if !line.is_empty() && (index > 0 || first) {
            indented.push_str(&margin);
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

/// `json.dumps` as transformers calls it: no HTML escapes, Python's separators, optional indent.
fn to_json(budget: &Budget, value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts"));
        }
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = JsonWriter {
        budget,
        indent: indent.map(|indent| indent.min(16)),
        item,
        key,
        ascii: ascii.unwrap_or(false),
        sorted: sorted.unwrap_or(false),
        text: String::new(),
    };
    writer.write(value, 0)?;
    Ok(writer.text)
}

struct JsonWriter<'a> {
    budget: &'a Budget,
    indent: Option<usize>,
    /// Between items, and between a key and its value.
    item: &'a str,
    key: &'a str,
    /// Other characters than ASCII are escaped.
    ascii: bool,
    sorted: bool,
    text: String,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                self.text.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.begin_item(&mut empty, depth + 1)?;
                    self.write(&item, depth + 1)?;
                }
                self.close(']', empty, depth)
            }
            ValueKind::Map => {
                self.text.push('{');
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                let empty = keys.is_empty();
                let mut first = true;
                for key in keys {
                    self.begin_item(&mut first, depth + 1)?;
                    self.quote(&key.to_string())?;
                    self.push_counted(self.key)?;
                    self.write(&value.get_item(&key)?, depth + 1)?;
                }
                self.close('}', empty, depth)
            }
            ValueKind::String => self.quote(value.as_str().unwrap_or_default()),
            ValueKind::None => self.push_counted("null"),
            ValueKind::Undefined => Err(Error::new(
                ErrorKind::InvalidOperation,
                "what is undefined cannot be written as JSON",
            )),
            ValueKind::Bool => self.push_counted(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let text = value.to_string();
                match f64::try_from(value.clone()) {
                    Ok(number) if text.contains(['.', 'e']) => {
                        self.push_counted(&python_values::float(number))
                    }
                    _ => self.push_counted(&text),
                }
            }
            _ => self.push_counted(&value.to_string()),
        }
    }

    fn push_counted(&mut self, text: &str) -> Result<(), Error> {
        self.budget.charge(text.len() as u64)?;
        self.text.push_str(text);
        Ok(())
    }

    fn begin_item(&mut self, first: &mut bool, depth: usize) -> Result<(), Error> {
        if !std::mem::take(first) {
            self.push_counted(self.item)?;
        }
        self.begin_line(depth)
    }

    fn begin_line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            self.budget.charge((indent * depth) as u64)?;
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
        Ok(())
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<(), Error> {
        if !empty {
            self.begin_line(depth)?;
        }
        self.text.push(bracket);
        Ok(())
    }

    fn quote(&mut self, text: &str) -> Result<(), Error> {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            return self.push_counted(&quoted);
        }
        for character in quoted.chars() {
            if character.is_ascii() {
                self.text.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                self.push_counted(&format!("\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}
