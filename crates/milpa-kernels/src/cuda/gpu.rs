//! A GPU with its context, its stream and its kernels, and the buffers and events on it.
//!
//! A [`Gpu`] has one stream: work is done in the order in which it was queued, so a buffer that is
//! dropped or written again needs no further care. It knows no operation's arguments.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use half::bf16;

use super::driver::{
    Attribute, Context, DeviceOrdinal, DevicePointer, Driver, EventHandle, Function, Module,
    StreamHandle,
};
use super::{CudaError, norm};

/// Compute capabilities that kernels are compiled for. A cubin runs on devices of its own major number
/// and no lesser minor one.
const ARCHITECTURES: [(u32, u32); 2] = [(8, 0), (9, 0)];

/// The cubins of one source, in the order of [`ARCHITECTURES`].
pub(super) type Cubins = [&'static [u8]; ARCHITECTURES.len()];

/// What a GPU says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number, from 0.
    pub index: usize,
    /// The vendor's name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Compute capability, such as (9, 0).
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// The newest CUDA version that the driver knows.
    pub driver_version: (u32, u32),
}

impl GpuInfo {
    fn read(driver: &Driver, index: usize) -> Result<Self, CudaError> {
        let device = driver.device(index)?;
        let attribute = |attribute| driver.attribute(device, attribute);
        Ok(Self {
            index,
            name: driver.device_name(device)?,
            memory_bytes: driver.device_memory(device)? as u64,
            compute_capability: (
                attribute(Attribute::ComputeCapabilityMajor)?,
                attribute(Attribute::ComputeCapabilityMinor)?,
            ),
            multiprocessors: attribute(Attribute::MultiprocessorCount)?,
            driver_version: driver.version()?,
        })
    }

    /// Which of the [`ARCHITECTURES`] this device runs.
    fn architecture(&self) -> Option<usize> {
        let (major, minor) = self.compute_capability;
        ARCHITECTURES
            .iter()
            .rposition(|&(of_major, of_minor)| of_major == major && of_minor <= minor)
    }

    /// Whether the kernels of this crate are compiled for this device.
    pub fn is_supported(&self) -> bool {
        self.architecture().is_some()
    }
}

/// One GPU: its primary context, one stream, and the kernels. Clones share them.
#[derive(Clone, Debug)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    driver: Driver,
    device: DeviceOrdinal,
    context: Context,
    stream: StreamHandle,
    modules: Vec<Module>,
    norm: norm::Kernels,
    info: GpuInfo,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Gpu").field(&self.info).finish()
    }
}

impl Gpu {
    /// Lists the GPUs of this machine; empty if there is a driver and no GPU.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`] where there is no driver.
    pub fn list() -> Result<Vec<GpuInfo>, CudaError> {
        // SAFETY: `libcuda.so.1` is the name of the NVIDIA driver's library.
        let driver = unsafe { Driver::load(None) }?;
        (0..driver.device_count()?).map(|index| GpuInfo::read(&driver, index)).collect()
    }

    /// Opens GPU `index` and loads the kernels for it.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        // SAFETY: as in `list`.
        Self::with_driver(unsafe { Driver::load(None) }?, index)
    }

    /// Opens GPU `index` of the driver in the library `path`: another place, or a stand-in.
    ///
    /// # Safety
    /// The library has the CUDA driver's symbols with the driver's signatures and behaviour.
    pub unsafe fn open_with_driver(path: &Path, index: usize) -> Result<Self, CudaError> {
        // SAFETY: the caller vouches for the library.
        Self::with_driver(unsafe { Driver::load(Some(path)) }?, index)
    }

    fn with_driver(driver: Driver, index: usize) -> Result<Self, CudaError> {
        let count = driver.device_count()?;
        if index >= count {
            return Err(CudaError::NoDevice { index, count });
        }
        let info = GpuInfo::read(&driver, index)?;
        let Some(architecture) = info.architecture() else {
            let (major, minor) = info.compute_capability;
            return Err(CudaError::Architecture { device: info.name, major, minor });
        };
        let device = driver.device(index)?;
        let context = driver.retain_context(device)?;
        let open = || {
            driver.set_current(context)?;
            let stream = driver.create_stream()?;
            // SAFETY: the cubins of this crate are whole.
            let module = unsafe { driver.load_module(norm::CUBINS[architecture]) }?;
            let norm = norm::Kernels::find(&Functions { driver: &driver, module })?;
            Ok((stream, vec![module], norm))
        };
        match open() {
            Ok((stream, modules, norm)) => {
                let shared = Shared { driver, device, context, stream, modules, norm, info };
                Ok(Self(Arc::new(shared)))
            }
            // The context takes along what was made in it.
            Err(error) => driver.release_context(device).and(Err(error)),
        }
    }

    /// What the GPU says about itself.
    pub fn info(&self) -> &GpuInfo {
        &self.0.info
    }

    /// The driver, with this GPU's context made that of the calling thread.
    fn driver(&self) -> Result<&Driver, CudaError> {
        self.0.driver.set_current(self.0.context)?;
        Ok(&self.0.driver)
    }

    /// Makes a buffer of `length` values with unspecified content.
    pub fn allocate<T: Element>(&self, length: usize) -> Result<Buffer<T>, CudaError> {
        let too_large = CudaError::TooLarge { elements: length, bytes: size_of::<T>() };
        let bytes = length.checked_mul(size_of::<T>()).ok_or(too_large)?;
        let pointer = if bytes == 0 { 0 } else { self.driver()?.allocate(bytes)? };
        Ok(Buffer { gpu: self.clone(), pointer, length, element: PhantomData })
    }

    /// Makes a buffer from host values.
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>, CudaError> {
        let mut buffer = self.allocate(values.len())?;
        self.write(values, &mut buffer)?;
        Ok(buffer)
    }

    /// Replaces the values of a buffer of the same length; returns when they have been read.
    pub fn write<T: Element>(&self, values: &[T], out: &mut Buffer<T>) -> Result<(), CudaError> {
        assert_eq!(values.len(), out.length, "values and buffer of one length");
        self.assert_owns(out);
        if values.is_empty() {
            return Ok(());
        }
        let (from, bytes) = (values.as_ptr().cast(), size_of_val(values));
        // SAFETY: `values` lives until the stream has been waited for, and the buffer is as long.
        unsafe { self.driver()?.copy_to_device(out.pointer, from, bytes, self.0.stream) }?;
        self.synchronize()
    }

    /// Waits for all queued work and copies values to the host.
    pub fn download<T: Element>(&self, buffer: &Buffer<T>) -> Result<Vec<T>, CudaError> {
        self.assert_owns(buffer);
        let mut values = vec![T::default(); buffer.length];
        if values.is_empty() {
            return Ok(values);
        }
        let (to, bytes) = (values.as_mut_ptr().cast(), size_of_val(values.as_slice()));
        // SAFETY: `values` has the buffer's length, lives until the stream has been waited for, and
        // an element may have any bits.
        unsafe { self.driver()?.copy_to_host(to, buffer.pointer, bytes, self.0.stream) }?;
        self.synchronize()?;
        Ok(values)
    }

    /// Queues `out = x`.
    pub fn copy<T: Element>(&self, x: &Buffer<T>, out: &mut Buffer<T>) -> Result<(), CudaError> {
        assert_eq!(x.length, out.length, "x and out of one length");
        self.assert_owns(x);
        self.assert_owns(out);
        let bytes = x.length * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both buffers have this many bytes and live until the stream has passed the copy.
        unsafe { self.driver()?.copy_on_device(out.pointer, x.pointer, bytes, self.0.stream) }
    }

    /// Waits for all queued work; reports a fault of any of it.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.driver()?.synchronize(self.0.stream)
    }

    /// Queues an event, which marks a place in the stream.
    pub fn record(&self) -> Result<Event, CudaError> {
        let driver = self.driver()?;
        let event = Event { gpu: self.clone(), handle: driver.create_event()? };
        driver.record(event.handle, self.0.stream)?;
        Ok(event)
    }

    /// The kernels of the norms.
    pub(super) fn norm(&self) -> &norm::Kernels {
        &self.0.norm
    }

    /// Panics unless the buffer lies in this GPU's context and is ordered by its stream.
    #[track_caller]
    fn assert_owns<T>(&self, buffer: &Buffer<T>) {
        assert!(Arc::ptr_eq(&self.0, &buffer.gpu.0), "the buffer belongs to another Gpu");
    }

    /// A buffer of this GPU as a parameter that a kernel reads.
    #[track_caller]
    pub(super) fn own<T>(&self, buffer: &Buffer<T>) -> Argument {
        self.assert_owns(buffer);
        Argument(buffer.pointer)
    }

    /// A buffer of this GPU as a parameter that a kernel writes.
    #[track_caller]
    pub(super) fn own_mut<T>(&self, buffer: &mut Buffer<T>) -> Argument {
        self.own(buffer)
    }

    /// Queues a kernel on `grid` blocks of `block` threads.
    ///
    /// # Safety
    /// `arguments` are the kernel's parameters in order, of their sizes; the kernel stays within the
    /// buffers that they point to, which belong to this GPU.
    pub(super) unsafe fn launch(
        &self,
        kernel: Function,
        grid: u32,
        block: (u32, u32),
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| (&raw const argument.0).cast_mut().cast()).collect();
        // SAFETY: the caller vouches for the arguments; the driver copies them before it returns.
        unsafe { self.driver()?.launch(kernel, grid, block, self.0.stream, &mut pointers) }
    }
}

/// The functions of one loaded module.
pub(super) struct Functions<'a> {
    driver: &'a Driver,
    module: Module,
}

impl Functions<'_> {
    /// Finds a kernel by its name in the source.
    pub(super) fn find(&self, name: &CStr) -> Result<Function, CudaError> {
        self.driver.function(self.module, name)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody is left to tell of an error, and the driver cleans up after a process in any case.
        let _ = self.driver.set_current(self.context);
        let _ = self.driver.synchronize(self.stream);
        for &module in &self.modules {
            let _ = self.driver.unload_module(module);
        }
        let _ = self.driver.destroy_stream(self.stream);
        let _ = self.driver.release_context(self.device);
    }
}

/// A kernel's parameter of at most eight bytes; CUDA's hosts are little-endian, so a shorter one lies
/// where the driver looks for it.
#[derive(Clone, Copy)]
pub(super) struct Argument(u64);

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self(value.cast_unsigned())
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self(u64::from(value.cast_unsigned()))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self(u64::from(value.to_bits()))
    }
}

/// How an element chooses its kernels; nobody else implements [`Element`].
pub trait Sealed {
    /// Chooses what is for this element.
    fn choose<'a, K>(f32: &'a K, bf16: &'a K) -> &'a K;
}

impl Sealed for f32 {
    fn choose<'a, K>(f32: &'a K, _: &'a K) -> &'a K {
        f32
    }
}

impl Sealed for bf16 {
    fn choose<'a, K>(_: &'a K, bf16: &'a K) -> &'a K {
        bf16
    }
}

/// What buffers hold: `f32` and `bf16`, for which any bits are a value.
pub trait Element: Copy + Default + Send + Sync + 'static + Sealed {}
impl Element for f32 {}
impl Element for bf16 {}

/// Values in a GPU's memory.
///
/// Dropping waits for the GPU and frees the memory; a loop keeps its buffers.
pub struct Buffer<T> {
    gpu: Gpu,
    pointer: DevicePointer,
    length: usize,
    element: PhantomData<T>,
}

impl<T> Buffer<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} × {})", self.length, std::any::type_name::<T>())
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.length == 0 {
            return;
        }
        if let Ok(driver) = self.gpu.driver() {
            // A fault of queued work is reported by whoever reads its result.
            let _ = driver.synchronize(self.gpu.0.stream);
            // SAFETY: the pointer came from `allocate`, and the only stream has nothing left to do.
            let _ = unsafe { driver.free(self.pointer) };
        }
    }
}

/// A place in a GPU's stream.
#[derive(Debug)]
pub struct Event {
    gpu: Gpu,
    handle: EventHandle,
}

impl Event {
    /// Waits for `later` and returns the seconds that the GPU took from this event to it.
    pub fn seconds_until(&self, later: &Self) -> Result<f64, CudaError> {
        let milliseconds = self.gpu.driver()?.elapsed(self.handle, later.handle)?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.driver() {
            let _ = driver.destroy_event(self.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_an_error() {
        // SAFETY: there is no such library, so nothing of it is run.
        let opened = unsafe { Gpu::open_with_driver("no-such-folder/libcuda.so.1".as_ref(), 0) };
        assert!(matches!(opened, Err(CudaError::NoDriver { .. })), "{opened:?}");
    }

    #[test]
    fn cubins_fit_devices_of_their_major_number() {
        for (compute_capability, expected) in [
            ((7, 5), None),
            ((8, 0), Some(0)),
            ((8, 9), Some(0)),
            ((9, 0), Some(1)),
            ((10, 0), None),
        ] {
            let info = GpuInfo {
                index: 0,
                name: String::new(),
                memory_bytes: 0,
                compute_capability,
                multiprocessors: 1,
                driver_version: (13, 0),
            };
            assert_eq!(info.architecture(), expected, "{compute_capability:?}");
        }
    }

    #[test]
    fn cubins_are_for_their_architecture() {
        for ((major, minor), cubin) in ARCHITECTURES.iter().zip(norm::CUBINS) {
            // The flags of an ELF header, at 48, name the architecture in their second byte.
            assert_eq!(&cubin[..4], b"\x7fELF");
            assert_eq!(u32::from(cubin[49]), 10 * major + minor);
        }
    }
}
