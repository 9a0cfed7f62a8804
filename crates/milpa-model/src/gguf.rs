//! The GGUF container, version 3: metadata and tensors, read with bounds and written.
//!
//! Layout: magic, version, counts; key-value pairs; tensor descriptions; padding to the alignment;
//! tensor data. Everything is little-endian; dimensions stand innermost first. Specification:
//! `docs/gguf.md` of ggml. This file knows no model: names and meanings are in `gguf_model.rs`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use milpa_base::mmap::MappedFile;
use milpa_tensor::{BlockFormat, Cpu, quantised};

use crate::{error::DecoderError, hf::floats};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Most tensors and most key-value pairs.
const MAX_ENTRIES: u64 = 1 << 16;
/// Most elements of all arrays together: a vocabulary of 256k needs under a million.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 22;
/// Longest tensor name in bytes.
const MAX_NAME: usize = 64;
/// Longest key in bytes.
const MAX_KEY: usize = 65_535;
const MAX_DIMENSIONS: usize = 4;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// Blocks of small whole numbers with their scales.
    Blocks(BlockFormat),
}

impl GgufType {
    /// All of them, with ggml's numbers.
    const NUMBERED: [(Self, u32); 7] = [
        (Self::F32, 0),
        (Self::F16, 1),
        (Self::Blocks(BlockFormat::Q4_0), 2),
        (Self::Blocks(BlockFormat::Q8_0), 8),
        (Self::Blocks(BlockFormat::Q4K), 12),
        (Self::Blocks(BlockFormat::Q6K), 14),
        (Self::Bf16, 30),
    ];

    fn from_number(number: u32) -> Option<Self> {
        let found = Self::NUMBERED.into_iter().find(|&(_, of)| of == number);
        found.map(|(kind, _)| kind)
    }

    fn number(self) -> u32 {
        let found = Self::NUMBERED.into_iter().find(|&(kind, _)| kind == self);
        found.map(|(_, number)| number).expect("all types are listed")
    }

    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Blocks(format) => format.name(),
        }
    }

    /// Bytes of a row of `values` values; `None` if no whole number of blocks fits.
    pub fn row_bytes(self, values: u64) -> Option<u64> {
        match self {
            Self::F32 => values.checked_mul(4),
            Self::F16 | Self::Bf16 => values.checked_mul(2),
            Self::Blocks(format) => {
                let block = format.block_values() as u64;
                let blocks = values.is_multiple_of(block).then_some(values / block)?;
                blocks.checked_mul(format.block_bytes() as u64)
            }
        }
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// Unsigned whole numbers of 8 to 64 bits; the type is kept when written.
    U8(u8),
    /// Signed, 8 bits.
    I8(i8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Signed, 16 bits.
    I16(i16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// 32-bit float.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Vec<GgufValue>),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Signed, 64 bits.
    I64(i64),
    /// 64-bit float.
    F64(f64),
}

impl GgufValue {
    /// The number of its type in the format.
    fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The value as a whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a float.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a list.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::U8(value) => out.write_all(&value.to_le_bytes()),
            Self::I8(value) => out.write_all(&value.to_le_bytes()),
            Self::U16(value) => out.write_all(&value.to_le_bytes()),
            Self::I16(value) => out.write_all(&value.to_le_bytes()),
            Self::U32(value) => out.write_all(&value.to_le_bytes()),
            Self::I32(value) => out.write_all(&value.to_le_bytes()),
            Self::F32(value) => out.write_all(&value.to_le_bytes()),
            Self::Bool(value) => out.write_all(&[u8::from(*value)]),
            Self::String(text) => write_string(out, text),
            Self::Array(values) => {
                // An empty list is written as one of texts: the format wants some type.
                let kind = values.first().map_or(8, Self::type_number);
                out.write_all(&kind.to_le_bytes())?;
                out.write_all(&(values.len() as u64).to_le_bytes())?;
                values.iter().try_for_each(|value| value.write(out))
            }
            Self::U64(value) => out.write_all(&value.to_le_bytes()),
            Self::I64(value) => out.write_all(&value.to_le_bytes()),
            Self::F64(value) => out.write_all(&value.to_le_bytes()),
        }
    }
}

fn write_string(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

/// A tensor of a [`GgufFile`].
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    /// How the values are stored.
    pub kind: GgufType,
    /// Lengths, outermost first (the reverse of the file's order).
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    range: Range<usize>,
}

/// An open GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, GgufTensor>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl GgufFile {
    /// Opens a file; its tensors stay on disk until they are read.
    pub fn open(path: &Path) -> Result<Self, DecoderError> {
        let map = MappedFile::open(path)
            .map_err(|source| DecoderError::Io { path: path.to_owned(), source })?;
        Self::read(path, Bytes::Mapped(map))
    }

    /// Reads a file that is in memory; `path` is named in errors.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, DecoderError> {
        Self::read(path, Bytes::Owned(bytes))
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self, DecoderError> {
        let mut reader = Reader { bytes: bytes.get(), at: 0, elements_left: MAX_ARRAY_ELEMENTS };
        let parsed = reader.file().map_err(|message| {
            let message = format!("{message} (at byte {})", reader.at);
            DecoderError::Format { path: path.to_owned(), format: "GGUF", message }
        });
        let (metadata, tensors) = parsed?;
        Ok(Self { path: path.to_owned(), bytes, metadata, tensors })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// The stored bytes of a tensor of this file.
    pub fn data(&self, tensor: &GgufTensor) -> &[u8] {
        &self.bytes.get()[tensor.range.clone()]
    }

    /// The values of a tensor of this file, widened to f32.
    pub fn values(&self, tensor: &GgufTensor) -> Vec<f32> {
        let bytes = self.data(tensor);
        match tensor.kind {
            GgufType::F32 => floats(bytes, f32::from_le_bytes),
            GgufType::F16 => floats(bytes, |pair| half::f16::from_le_bytes(pair).to_f32()),
            GgufType::Bf16 => floats(bytes, |pair| half::bf16::from_le_bytes(pair).to_f32()),
            GgufType::Blocks(format) => {
                let mut values = vec![0.0; tensor.shape.iter().product()];
                quantised::dequantize(&Cpu::detect(1), format, bytes, &mut values);
                values
            }
        }
    }
}

type Parsed = (BTreeMap<String, GgufValue>, BTreeMap<String, GgufTensor>);

/// Reads bytes in order; every length is checked against what is left.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    elements_left: u64,
}

impl<'a> Reader<'a> {
    fn file(&mut self) -> Result<Parsed, String> {
        if self.take(4)? != MAGIC {
            return Err("it does not begin with GGUF".to_owned());
        }
        let version = self.u32()?;
        if version != VERSION {
            return Err(format!("its version is {version}; version {VERSION} is read"));
        }
        // A description has at least a name's length, a count, a type and an offset; a pair has a
        // key's length, a type and a byte.
        let tensors = self.count("tensors", 24, MAX_ENTRIES)?;
        let pairs = self.count("key-value pairs", 13, MAX_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pairs {
            let key = self.string(MAX_KEY)?;
            let kind = self.u32()?;
            let value = self.value(kind, true).map_err(|message| format!("{key:?}: {message}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("the key {key:?} stands twice"));
            }
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value.as_u64().unwrap_or(0),
        };
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(format!("{ALIGNMENT_KEY} is {alignment}, no power of two from 8 on"));
        }
        let descriptions =
            (0..tensors).map(|_| self.description()).collect::<Result<Vec<_>, _>>()?;
        let start = (self.at as u64).next_multiple_of(alignment);
        let mut named = BTreeMap::new();
        for description in descriptions {
            let name = description.name.clone();
            let tensor = description.place(start, alignment, self.bytes.len() as u64)?;
            if named.insert(name.clone(), tensor).is_some() {
                return Err(format!("the tensor {name:?} stands twice"));
            }
        }
        Ok((metadata, named))
    }

    fn description(&mut self) -> Result<Description, String> {
        let name = self.string(MAX_NAME)?;
        let dimensions = self.u32()? as usize;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(format!("the tensor {name:?} has {dimensions} dimensions"));
        }
        let mut shape = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let number = self.u32()?;
        let kind = GgufType::from_number(number).ok_or_else(|| {
            let known = GgufType::NUMBERED.map(|(kind, _)| kind.name()).join(", ");
            format!("the tensor {name:?} is of ggml type {number}; these are read: {known}")
        })?;
        let offset = self.u64()?;
        Ok(Description { name, shape, kind, offset })
    }

    fn value(&mut self, kind: u32, lists: bool) -> Result<GgufValue, String> {
        Ok(match kind {
            0 => GgufValue::U8(self.array::<1>()?[0]),
            1 => GgufValue::I8(i8::from_le_bytes(self.array()?)),
            2 => GgufValue::U16(u16::from_le_bytes(self.array()?)),
            3 => GgufValue::I16(i16::from_le_bytes(self.array()?)),
            4 => GgufValue::U32(self.u32()?),
            5 => GgufValue::I32(i32::from_le_bytes(self.array()?)),
            6 => GgufValue::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array::<1>()?[0] {
                0 => GgufValue::Bool(false),
                1 => GgufValue::Bool(true),
                other => return Err(format!("{other} is neither true nor false")),
            },
            8 => GgufValue::String(self.string(usize::MAX)?),
            9 if lists => {
                let kind = self.u32()?;
                let smallest = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    _ => 8,
                };
                let count = self.count("array elements", smallest, self.elements_left)?;
                self.elements_left -= count;
                let values = (0..count).map(|_| self.value(kind, false));
                GgufValue::Array(values.collect::<Result<_, _>>()?)
            }
            10 => GgufValue::U64(self.u64()?),
            11 => GgufValue::I64(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("{other} is no type of a value here")),
        })
    }

    /// Reads a count of things that take at least `smallest` bytes each.
    fn count(&mut self, what: &str, smallest: u64, most: u64) -> Result<u64, String> {
        let count = self.u64()?;
        let left = (self.bytes.len() - self.at) as u64;
        if count > most || count > left / smallest {
            return Err(format!("it claims {count} {what} with {left} bytes left"));
        }
        Ok(count)
    }

    fn string(&mut self, longest: usize) -> Result<String, String> {
        let length = self.u64()?;
        let left = self.bytes.len() - self.at;
        let length = usize::try_from(length).ok().filter(|&length| length <= left.min(longest));
        let length = length.ok_or("a text is longer than it can be")?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N).map(|bytes| bytes.try_into().expect("take gives what was asked for"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("it ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

/// A tensor as described, before its place is checked.
struct Description {
    name: String,
    shape: Vec<u64>,
    kind: GgufType,
    offset: u64,
}

impl Description {
    fn place(self, start: u64, alignment: u64, file_bytes: u64) -> Result<GgufTensor, String> {
        let Self { name, shape, kind, offset } = self;
        let bytes = || {
            let (&last, outer) = shape.split_last()?;
            let rows = outer.iter().try_fold(1_u64, |rows, &length| rows.checked_mul(length))?;
            kind.row_bytes(last)?.checked_mul(rows)
        };
        let bytes = bytes().ok_or_else(|| {
            format!("the tensor {name:?} of {} cannot have {shape:?}", kind.name())
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("the tensor {name:?} begins at {offset}, out of alignment"));
        }
        let begin = start.checked_add(offset);
        let range = begin.and_then(|begin| Some((begin, begin.checked_add(bytes)?)));
        let (begin, end) = range
            .filter(|&(_, end)| end <= file_bytes)
            .ok_or_else(|| format!("the tensor {name:?} ends beyond the file"))?;
        let shape = shape.into_iter().map(|length| length as usize).collect();
        Ok(GgufTensor { kind, shape, range: begin as usize..end as usize })
    }
}

/// Writes a GGUF file: first describe everything, then give the data in the same order.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, GgufValue)>,
    tensors: Vec<(String, Vec<usize>, GgufType)>,
}

impl GgufWriter {
    /// Adds a key-value pair; pairs keep their order.
    pub fn metadata(&mut self, key: impl Into<String>, value: GgufValue) {
        self.metadata.push((key.into(), value));
    }

    /// Describes a tensor with lengths outermost first; rows hold whole blocks of `kind`.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[usize], kind: GgufType) {
        self.tensors.push((name.into(), shape.to_vec(), kind));
    }

    /// Writes the file; `data(i)` gives the bytes of the tensor described as number `i`.
    pub fn write(
        &self,
        path: &Path,
        data: &mut dyn FnMut(usize) -> Vec<u8>,
    ) -> Result<(), DecoderError> {
        let mut write = || -> io::Result<()> {
            let mut out = BufWriter::new(File::create(path)?);
            self.write_to(&mut out, data)?;
            out.flush()
        };
        write().map_err(|source| DecoderError::Io { path: path.to_owned(), source })
    }

    /// As [`GgufWriter::write`], to any writer.
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        data: &mut dyn FnMut(usize) -> Vec<u8>,
    ) -> io::Result<()> {
        let alignment = DEFAULT_ALIGNMENT as usize;
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(&mut header, key)?;
            header.extend_from_slice(&value.type_number().to_le_bytes());
            value.write(&mut header)?;
        }
        let mut offset = 0;
        let mut lengths = Vec::new();
        for (name, shape, kind) in &self.tensors {
            write_string(&mut header, name)?;
            header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
            for &length in shape.iter().rev() {
                header.extend_from_slice(&(length as u64).to_le_bytes());
            }
            header.extend_from_slice(&kind.number().to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            let rows: usize = shape[..shape.len() - 1].iter().product();
            let row = kind.row_bytes(shape[shape.len() - 1] as u64).ok_or_else(|| {
                io::Error::other(format!("{name}: {} cannot hold rows of {shape:?}", kind.name()))
            })?;
            lengths.push(rows * row as usize);
            offset = (offset + rows * row as usize).next_multiple_of(alignment);
        }
        header.resize(header.len().next_multiple_of(alignment), 0);
        out.write_all(&header)?;
        for (index, &length) in lengths.iter().enumerate() {
            let bytes = data(index);
            if bytes.len() != length {
                let name = &self.tensors[index].0;
                let message = format!("{name}: {} bytes instead of {length}", bytes.len());
                return Err(io::Error::other(message));
            }
            out.write_all(&bytes)?;
            out.write_all(&vec![0; length.next_multiple_of(alignment) - length])?;
        }
        Ok(())
    }
}
