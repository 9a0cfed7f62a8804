//! The part of the CUDA driver API that is used here, loaded at run time from `libcuda.so.1`.
//!
//! The driver comes with the operating system's NVIDIA driver, never with a toolkit, and its C
//! interface is stable: a name with its version suffix keeps its signature for good. So each entry
//! point is named once, below, and a machine without a driver gets an error instead of not starting.
//! Signatures: CUDA Driver API reference manual. This file knows no kernels and keeps no state.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;

use super::CudaError;

/// `CUresult`.
type Status = c_uint;
/// `CUdevice`.
pub(super) type DeviceOrdinal = c_int;
/// `CUdeviceptr`.
pub(super) type DevicePointer = u64;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(transparent)]
        pub(super) struct $name(pub(super) *mut c_void);
        // SAFETY: the driver's handles may be used from any thread, one call at a time or several.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )*};
}

handles! {
    /// `CUcontext`.
    Context,
    /// `CUmodule`.
    Module,
    /// `CUfunction`.
    Function,
    /// `CUstream`.
    StreamHandle,
    /// `CUevent`.
    EventHandle,
}

/// Declares the table of entry points and how it is filled.
macro_rules! entry_points {
    ($($field:ident = $symbol:literal ( $($argument:ty),* $(,)? );)*) => {
        struct EntryPoints {
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl EntryPoints {
            /// # Safety
            /// `library` is an NVIDIA driver's `libcuda`, so that its symbols have the signatures
            /// written here.
            unsafe fn load(library: &Library) -> Result<Self, CudaError> {
                $(
                    // SAFETY: the caller vouches for the signatures. The function pointer does not
                    // outlive the library, which `Driver` keeps beside it.
                    let $field = *unsafe { library.get($symbol) }.map_err(no_library)?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

entry_points! {
    init = b"cuInit\0"(c_uint);
    driver_version = b"cuDriverGetVersion\0"(*mut c_int);
    error_name = b"cuGetErrorName\0"(Status, *mut *const c_char);
    error_text = b"cuGetErrorString\0"(Status, *mut *const c_char);
    device_count = b"cuDeviceGetCount\0"(*mut c_int);
    device_get = b"cuDeviceGet\0"(*mut DeviceOrdinal, c_int);
    device_name = b"cuDeviceGetName\0"(*mut c_char, c_int, DeviceOrdinal);
    device_memory = b"cuDeviceTotalMem_v2\0"(*mut usize, DeviceOrdinal);
    device_attribute = b"cuDeviceGetAttribute\0"(*mut c_int, c_int, DeviceOrdinal);
    context_retain = b"cuDevicePrimaryCtxRetain\0"(*mut Context, DeviceOrdinal);
    context_release = b"cuDevicePrimaryCtxRelease_v2\0"(DeviceOrdinal);
    context_set_current = b"cuCtxSetCurrent\0"(Context);
    module_load = b"cuModuleLoadData\0"(*mut Module, *const c_void);
    module_unload = b"cuModuleUnload\0"(Module);
    module_function = b"cuModuleGetFunction\0"(*mut Function, Module, *const c_char);
    stream_create = b"cuStreamCreate\0"(*mut StreamHandle, c_uint);
    stream_synchronize = b"cuStreamSynchronize\0"(StreamHandle);
    stream_destroy = b"cuStreamDestroy_v2\0"(StreamHandle);
    event_create = b"cuEventCreate\0"(*mut EventHandle, c_uint);
    event_record = b"cuEventRecord\0"(EventHandle, StreamHandle);
    event_synchronize = b"cuEventSynchronize\0"(EventHandle);
    event_elapsed = b"cuEventElapsedTime\0"(*mut f32, EventHandle, EventHandle);
    event_destroy = b"cuEventDestroy_v2\0"(EventHandle);
    memory_allocate = b"cuMemAlloc_v2\0"(*mut DevicePointer, usize);
    memory_free = b"cuMemFree_v2\0"(DevicePointer);
    copy_to_device = b"cuMemcpyHtoDAsync_v2\0"(DevicePointer, *const c_void, usize, StreamHandle);
    copy_to_host = b"cuMemcpyDtoHAsync_v2\0"(*mut c_void, DevicePointer, usize, StreamHandle);
    copy_on_device = b"cuMemcpyDtoDAsync_v2\0"(DevicePointer, DevicePointer, usize, StreamHandle);
    launch = b"cuLaunchKernel\0"(
        Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, StreamHandle,
        *mut *mut c_void, *mut *mut c_void,
    );
}

fn no_library(error: libloading::Error) -> CudaError {
    // The loader's own words, such as the name of what is missing, are in the source.
    let problem = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    CudaError::NoDriver { problem }
}

/// What a device says about itself, `CUdevice_attribute`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Attribute {
    MultiprocessorCount = 16,
    ComputeCapabilityMajor = 75,
    ComputeCapabilityMinor = 76,
}

/// A loaded and initialised driver.
pub(super) struct Driver {
    entry: EntryPoints,
    /// Kept, because the entry points lie in it.
    _library: Library,
}

/// Calls an entry point and turns its status into a result that names it.
macro_rules! call {
    ($driver:expr, $field:ident ( $($argument:expr),* $(,)? )) => {{
        // SAFETY: the signature is the entry point's; what pointers need, the method states.
        let status = unsafe { ($driver.entry.$field)($($argument),*) };
        $driver.check(stringify!($field), status)
    }};
}

impl Driver {
    /// Loads `library`, or the system's `libcuda.so.1`, and initialises it.
    ///
    /// # Safety
    /// The library has the driver's symbols with the driver's signatures.
    pub(super) unsafe fn load(library: Option<&Path>) -> Result<Self, CudaError> {
        let name = library.unwrap_or(Path::new("libcuda.so.1"));
        // SAFETY: the caller vouches for the library; the driver's initialisers may run anywhere.
        let library = unsafe { Library::new(name) }.map_err(no_library)?;
        // SAFETY: the caller vouches for the library.
        let entry = unsafe { EntryPoints::load(&library) }?;
        let driver = Self { entry, _library: library };
        call!(driver, init(0))
            .map_err(|error| CudaError::NoDriver { problem: error.to_string() })?;
        Ok(driver)
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        let text = |of: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = ptr::null();
            // SAFETY: the driver writes a pointer to a text of its own, or null.
            unsafe {
                of(status, &raw mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = text(self.entry.error_name).unwrap_or_else(|| format!("status {status}"));
        let explanation = text(self.entry.error_text).unwrap_or_else(|| "unknown".to_owned());
        Err(CudaError::Call { call, name, explanation })
    }

    /// The newest CUDA version that the driver knows, as (major, minor).
    pub(super) fn version(&self) -> Result<(u32, u32), CudaError> {
        let mut version = 0;
        call!(self, driver_version(&raw mut version))?;
        let version = version.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }

    pub(super) fn device_count(&self) -> Result<usize, CudaError> {
        let mut count = 0;
        call!(self, device_count(&raw mut count))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn device(&self, index: usize) -> Result<DeviceOrdinal, CudaError> {
        let mut device = 0;
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        call!(self, device_get(&raw mut device, index))?;
        Ok(device)
    }

    pub(super) fn device_name(&self, device: DeviceOrdinal) -> Result<String, CudaError> {
        let mut name = [0_u8; 256];
        // The driver ends the name with a zero within the length that it is given.
        call!(self, device_name(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    pub(super) fn device_memory(&self, device: DeviceOrdinal) -> Result<usize, CudaError> {
        let mut bytes = 0;
        call!(self, device_memory(&raw mut bytes, device))?;
        Ok(bytes)
    }

    pub(super) fn attribute(
        &self,
        device: DeviceOrdinal,
        attribute: Attribute,
    ) -> Result<u32, CudaError> {
        let mut value = 0;
        call!(self, device_attribute(&raw mut value, attribute as c_int, device))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Takes part in the device's primary context; each call needs one `release_context`.
    pub(super) fn retain_context(&self, device: DeviceOrdinal) -> Result<Context, CudaError> {
        let mut context = Context(ptr::null_mut());
        call!(self, context_retain(&raw mut context, device))?;
        Ok(context)
    }

    pub(super) fn release_context(&self, device: DeviceOrdinal) -> Result<(), CudaError> {
        call!(self, context_release(device))
    }

    /// Makes the context that of the calling thread: every call below needs one.
    pub(super) fn set_current(&self, context: Context) -> Result<(), CudaError> {
        call!(self, context_set_current(context))
    }

    /// Loads a cubin; the driver reads its length from its ELF header.
    ///
    /// # Safety
    /// `cubin` is a whole cubin.
    pub(super) unsafe fn load_module(&self, cubin: &[u8]) -> Result<Module, CudaError> {
        let mut module = Module(ptr::null_mut());
        call!(self, module_load(&raw mut module, cubin.as_ptr().cast()))?;
        Ok(module)
    }

    pub(super) fn unload_module(&self, module: Module) -> Result<(), CudaError> {
        call!(self, module_unload(module))
    }

    pub(super) fn function(&self, module: Module, name: &CStr) -> Result<Function, CudaError> {
        let mut function = Function(ptr::null_mut());
        call!(self, module_function(&raw mut function, module, name.as_ptr()))?;
        Ok(function)
    }

    /// Makes a stream that does not wait for the default stream.
    pub(super) fn create_stream(&self) -> Result<StreamHandle, CudaError> {
        const NON_BLOCKING: c_uint = 1;
        let mut stream = StreamHandle(ptr::null_mut());
        call!(self, stream_create(&raw mut stream, NON_BLOCKING))?;
        Ok(stream)
    }

    pub(super) fn synchronize(&self, stream: StreamHandle) -> Result<(), CudaError> {
        call!(self, stream_synchronize(stream))
    }

    pub(super) fn destroy_stream(&self, stream: StreamHandle) -> Result<(), CudaError> {
        call!(self, stream_destroy(stream))
    }

    pub(super) fn create_event(&self) -> Result<EventHandle, CudaError> {
        let mut event = EventHandle(ptr::null_mut());
        call!(self, event_create(&raw mut event, 0))?;
        Ok(event)
    }

    pub(super) fn record(&self, event: EventHandle, stream: StreamHandle) -> Result<(), CudaError> {
        call!(self, event_record(event, stream))
    }

    /// Waits for `end` and returns the milliseconds between the two.
    pub(super) fn elapsed(&self, begin: EventHandle, end: EventHandle) -> Result<f32, CudaError> {
        let mut milliseconds = 0.0;
        call!(self, event_synchronize(end))?;
        call!(self, event_elapsed(&raw mut milliseconds, begin, end))?;
        Ok(milliseconds)
    }

    pub(super) fn destroy_event(&self, event: EventHandle) -> Result<(), CudaError> {
        call!(self, event_destroy(event))
    }

    /// `bytes` is positive.
    pub(super) fn allocate(&self, bytes: usize) -> Result<DevicePointer, CudaError> {
        let mut pointer = 0;
        call!(self, memory_allocate(&raw mut pointer, bytes))?;
        Ok(pointer)
    }

    /// # Safety
    /// `pointer` came from `allocate`, and no work that is under way uses it.
    pub(super) unsafe fn free(&self, pointer: DevicePointer) -> Result<(), CudaError> {
        call!(self, memory_free(pointer))
    }

    /// # Safety
    /// `from` can be read until the stream has passed the copy, and `to` has room.
    pub(super) unsafe fn copy_to_device(
        &self,
        to: DevicePointer,
        from: *const c_void,
        bytes: usize,
        stream: StreamHandle,
    ) -> Result<(), CudaError> {
        call!(self, copy_to_device(to, from, bytes, stream))
    }

    /// # Safety
    /// `to` has room and is touched by nobody until the stream has passed the copy.
    pub(super) unsafe fn copy_to_host(
        &self,
        to: *mut c_void,
        from: DevicePointer,
        bytes: usize,
        stream: StreamHandle,
    ) -> Result<(), CudaError> {
        call!(self, copy_to_host(to, from, bytes, stream))
    }

    /// # Safety
    /// Both ranges lie in living device memory.
    pub(super) unsafe fn copy_on_device(
        &self,
        to: DevicePointer,
        from: DevicePointer,
        bytes: usize,
        stream: StreamHandle,
    ) -> Result<(), CudaError> {
        call!(self, copy_on_device(to, from, bytes, stream))
    }

    /// # Safety
    /// `arguments` point to values of the kernel's parameter types, and what they point to on the
    /// device is large enough for the kernel.
    pub(super) unsafe fn launch(
        &self,
        function: Function,
        grid: u32,
        block: (u32, u32),
        stream: StreamHandle,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let (x, y) = block;
        let arguments = arguments.as_mut_ptr();
        call!(self, launch(function, grid, 1, 1, x, y, 1, 0, stream, arguments, ptr::null_mut()))
    }
}
