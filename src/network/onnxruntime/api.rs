//! ONNX Runtime's C API as owned, checked types: every call into the library is made in this file, and the rest
//! of the crate sees safe functions only.
//!
//! The `ort` crate's safe layer is not used because it panics on what a model file can hold (a sequence of
//! sequences, an opaque type), keeps the library in a cell that ignores a second path, and allocates in each run.

use super::log;
use crate::Status;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};

/// ONNX Runtime's own error: a code and a text.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: c_int,
    pub message: String,
}

impl Failure {
    pub const NO_SUCH_FILE: c_int = ort_sys::OrtErrorCode::ORT_NO_SUCHFILE as c_int;
    pub const NO_MODEL: c_int = ort_sys::OrtErrorCode::ORT_NO_MODEL as c_int;
    pub const INVALID_PROTOBUF: c_int = ort_sys::OrtErrorCode::ORT_INVALID_PROTOBUF as c_int;
    pub const INVALID_GRAPH: c_int = ort_sys::OrtErrorCode::ORT_INVALID_GRAPH as c_int;
    pub const NOT_IMPLEMENTED: c_int = ort_sys::OrtErrorCode::ORT_NOT_IMPLEMENTED as c_int;
    const INVALID_ARGUMENT: c_int = ort_sys::OrtErrorCode::ORT_INVALID_ARGUMENT as c_int;

    fn argument(message: impl Into<String>) -> Self {
        Self { code: Self::INVALID_ARGUMENT, message: message.into() }
    }

    /// Memory of ours that cannot be had.
    pub fn out_of_memory(values: usize) -> Self {
        let message = format!("out of memory: a buffer of {values} values cannot be allocated");
        Self { code: ort_sys::OrtErrorCode::ORT_FAIL as c_int, message }
    }

    /// [`Status::OutOfMemory`] if it is that, else `other`. ONNX Runtime has no code for it; these are the words
    /// of its arena, of C++ and of CUDA.
    pub fn status_or(&self, other: Status) -> Status {
        let words = ["Failed to allocate memory", "bad_alloc", "out of memory"];
        if words.iter().any(|words| self.message.contains(words)) { Status::OutOfMemory } else { other }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

type Result<T, E = Failure> = std::result::Result<T, E>;

/// What is called of ONNX Runtime: its table of functions.
#[derive(Clone, Copy)]
pub(super) struct Api(&'static ort_sys::OrtApi);

/// Why [`Api::from_base`] refused.
pub(super) enum Unusable {
    /// The library says that it has this version.
    Version(String),
    /// The library's answers are not those of ONNX Runtime.
    Foreign,
}

impl Api {
    /// The least minor version (of 1.x) whose table has the functions that are called here.
    pub const LEAST_MINOR: u32 = ort_sys::ORT_API_VERSION;

    /// The table behind `OrtGetApiBase`, with the library's version.
    ///
    /// # Safety
    /// `get_base` must be the `OrtGetApiBase` of a library that stays loaded as long as the table is in use.
    pub unsafe fn from_base(
        get_base: unsafe extern "system" fn() -> *const ort_sys::OrtApiBase,
    ) -> Result<(Self, String), Unusable> {
        // SAFETY: by the caller's promise this is ONNX Runtime's entry point; its result lives as long as the
        // library, and so do the version string and the table. The table is only ever asked for at a version
        // that the library claims to have.
        unsafe {
            let base = get_base().as_ref().ok_or(Unusable::Foreign)?;
            let version = (base.GetVersionString)();
            if version.is_null() {
                return Err(Unusable::Foreign);
            }
            let version = CStr::from_ptr(version).to_string_lossy().into_owned();
            let mut numbers = version.split('.').map(str::parse::<u32>);
            match (numbers.next(), numbers.next()) {
                (Some(Ok(1)), Some(Ok(minor))) if minor >= Self::LEAST_MINOR => {}
                (Some(Ok(_)), Some(Ok(_))) => return Err(Unusable::Version(version)),
                _ => return Err(Unusable::Foreign),
            }
            match (base.GetApi)(Self::LEAST_MINOR).as_ref() {
                Some(table) => Ok((Self(table), version)),
                None => Err(Unusable::Version(version)),
            }
        }
    }

    /// Takes ownership of a status.
    fn check(self, status: ort_sys::OrtStatusPtr) -> Result<()> {
        if status.0.is_null() {
            return Ok(());
        }
        // A code that is newer than this binding would be no value of its enum: it is read as the number it is.
        type GetErrorCode = unsafe extern "system" fn(*const ort_sys::OrtStatus) -> c_int;
        type Declared = unsafe extern "system" fn(*const ort_sys::OrtStatus) -> ort_sys::OrtErrorCode;
        // SAFETY: the two function types differ only in an enum of representation i32 and i32. The status is
        // valid until it is released, here and nowhere else; its message lives as long as it does.
        unsafe {
            let code = std::mem::transmute::<Declared, GetErrorCode>(self.0.GetErrorCode)(status.0);
            let text = (self.0.GetErrorMessage)(status.0);
            let message = if text.is_null() {
                String::new()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            };
            (self.0.ReleaseStatus)(status.0);
            Err(Failure { code, message })
        }
    }

    /// Calls a function of the table that writes a pointer.
    ///
    /// # Safety
    /// `call` must leave in its argument a pointer to a `T` or return a failure.
    unsafe fn make<T>(self, call: impl FnOnce(*mut *mut T) -> ort_sys::OrtStatusPtr) -> Result<NonNull<T>> {
        let mut made = ptr::null_mut();
        self.check(call(&mut made))?;
        NonNull::new(made).ok_or_else(|| Failure::argument("ONNX Runtime returned a null pointer"))
    }

    /// Copies and frees a string that ONNX Runtime allocated with `allocator`.
    ///
    /// # Safety
    /// `text` must be such a string.
    unsafe fn take_string(self, allocator: NonNull<ort_sys::OrtAllocator>, text: NonNull<c_char>) -> String {
        // SAFETY: a NUL-terminated string by the caller's promise, freed once, after the copy. Freeing reports
        // only null arguments, so its status needs no look beyond being released.
        unsafe {
            let copy = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
            let _ = self.check((self.0.AllocatorFree)(allocator.as_ptr(), text.as_ptr().cast()));
            copy
        }
    }

    fn allocator(self) -> Result<NonNull<ort_sys::OrtAllocator>> {
        // SAFETY: the default allocator is a static of the library.
        unsafe { self.make(|out| (self.0.GetAllocatorWithDefaultOptions)(out)) }
    }

    /// The execution providers that this build of ONNX Runtime has, by ONNX Runtime's names.
    pub fn providers(self) -> Result<Vec<String>> {
        let (mut names, mut count) = (ptr::null_mut(), 0);
        // SAFETY: on success `names` has `count` NUL-terminated strings, released once, after they were copied.
        unsafe {
            self.check((self.0.GetAvailableProviders)(&mut names, &mut count))?;
            let copies = (0..usize::try_from(count).unwrap_or(0))
                .map(|i| CStr::from_ptr(*names.add(i)).to_string_lossy().into_owned())
                .collect();
            let _ = self.check((self.0.ReleaseAvailableProviders)(names, count));
            Ok(copies)
        }
    }
}

/// ONNX Runtime's environment. Never released: its teardown at exit can crash, and other users of the library in
/// this process share it.
pub(super) struct Env {
    api: Api,
    ptr: NonNull<ort_sys::OrtEnv>,
}

// SAFETY: OrtEnv is documented to be usable from any thread at once.
unsafe impl Send for Env {}
// SAFETY: as above.
unsafe impl Sync for Env {}

impl Env {
    /// An environment whose messages go to [`log`], and whose telemetry is off, also where the user's environment lets it
    /// begin: a library does not phone home on its caller's behalf.
    pub fn new(api: Api) -> Result<Self> {
        // SAFETY: the logging function and the name are statics.
        let ptr = unsafe {
            api.make(|out| {
                (api.0.CreateEnvWithCustomLogger)(
                    log::receive,
                    ptr::null_mut(),
                    ort_sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING,
                    c"psld".as_ptr(),
                    out,
                )
            })?
        };
        // SAFETY: `ptr` was made above.
        api.check(unsafe { (api.0.DisableTelemetryEvents)(ptr.as_ptr()) })?;
        Ok(Self { api, ptr })
    }
}

/// How a session is made.
pub(super) struct SessionOptions {
    api: Api,
    ptr: NonNull<ort_sys::OrtSessionOptions>,
}

impl SessionOptions {
    /// `threads` threads within an operator; one operator at a time.
    pub fn new(env: &Env, threads: c_int) -> Result<Self> {
        let api = env.api;
        // SAFETY: `options` releases what is made here.
        let options = Self { api, ptr: unsafe { api.make(|out| (api.0.CreateSessionOptions)(out))? } };
        // SAFETY: the pointer is valid as long as `options` lives.
        unsafe {
            api.check((api.0.SetIntraOpNumThreads)(options.ptr.as_ptr(), threads))?;
            api.check((api.0.SetInterOpNumThreads)(options.ptr.as_ptr(), 1))?;
        }
        Ok(options)
    }

    /// One of ONNX Runtime's session configuration entries.
    pub fn set(&mut self, key: &CStr, value: &CStr) -> Result<()> {
        // SAFETY: both strings are copied by the call.
        self.api.check(unsafe {
            (self.api.0.AddSessionConfigEntry)(self.ptr.as_ptr(), key.as_ptr(), value.as_ptr())
        })
    }

    /// Puts the CUDA provider on `device` behind those already there.
    pub fn append_cuda(&mut self, device: &CStr) -> Result<()> {
        let table = self.api.0;
        // SAFETY: the provider's options are released once, after their last use; keys and values are copied.
        unsafe {
            let options = self.api.make(|out| (table.CreateCUDAProviderOptions)(out))?;
            let (key, value) = (c"device_id".as_ptr(), device.as_ptr());
            let result = self
                .api
                .check((table.UpdateCUDAProviderOptions)(options.as_ptr(), &key, &value, 1))
                .and_then(|()| {
                    self.api.check((table.SessionOptionsAppendExecutionProvider_CUDA_V2)(
                        self.ptr.as_ptr(),
                        options.as_ptr(),
                    ))
                });
            (table.ReleaseCUDAProviderOptions)(options.as_ptr());
            result
        }
    }

    /// Puts the TensorRT provider on `device` behind those already there.
    pub fn append_tensorrt(&mut self, device: &CStr) -> Result<()> {
        let table = self.api.0;
        // SAFETY: as in `append_cuda`.
        unsafe {
            let options = self.api.make(|out| (table.CreateTensorRTProviderOptions)(out))?;
            let (key, value) = (c"device_id".as_ptr(), device.as_ptr());
            let result = self
                .api
                .check((table.UpdateTensorRTProviderOptions)(options.as_ptr(), &key, &value, 1))
                .and_then(|()| {
                    self.api.check((table.SessionOptionsAppendExecutionProvider_TensorRT_V2)(
                        self.ptr.as_ptr(),
                        options.as_ptr(),
                    ))
                });
            (table.ReleaseTensorRTProviderOptions)(options.as_ptr());
            result
        }
    }
}

impl Drop for SessionOptions {
    fn drop(&mut self) {
        // SAFETY: owned, released once.
        unsafe { (self.api.0.ReleaseSessionOptions)(self.ptr.as_ptr()) }
    }
}

/// The type of a tensor's elements, as ONNX numbers them; 0 for what is no tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element(c_int);

impl Element {
    pub const F32: Self = Self(1);
    pub const I64: Self = Self(7);
    pub const F16: Self = Self(10);
    pub const BF16: Self = Self(16);
    const NO_TENSOR: Self = Self(0);
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 17] = [
            "no tensor",
            "float32",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "float64",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
        ];
        match usize::try_from(self.0).ok().and_then(|i| NAMES.get(i)) {
            Some(name) => f.write_str(name),
            None => write!(f, "ONNX type {}", self.0),
        }
    }
}

/// A Rust type with a tensor element type.
pub(super) trait Scalar: Copy {
    const ELEMENT: Element;
}
impl Scalar for f32 {
    const ELEMENT: Element = Element::F32;
}
impl Scalar for i64 {
    const ELEMENT: Element = Element::I64;
}
impl Scalar for half::f16 {
    const ELEMENT: Element = Element::F16;
}
impl Scalar for half::bf16 {
    const ELEMENT: Element = Element::BF16;
}

/// What a graph declares about an input or output.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub name: String,
    pub element: Element,
    /// -1 where a dimension is not fixed; empty also where the graph declares no shape.
    pub dims: Vec<i64>,
}

/// A loaded model. How many threads may run it at once depends on the provider.
pub(super) struct Session {
    api: Api,
    ptr: NonNull<ort_sys::OrtSession>,
}

// SAFETY: a session has no tie to the thread that made it.
unsafe impl Send for Session {}
// SAFETY: what is shared reads the model's description, which nothing changes, or is
// `run_beside_others`, whose callers see to it.
unsafe impl Sync for Session {}

/// What ends a call from another thread.
pub(super) struct Termination {
    api: Api,
    ptr: NonNull<ort_sys::OrtRunOptions>,
}

// SAFETY: these options have no tie to the thread that made them.
unsafe impl Send for Termination {}
// SAFETY: after they are made only their terminate flag is written, which ONNX Runtime provides to be set from another
// thread while a call reads it.
unsafe impl Sync for Termination {}

impl Termination {
    pub fn new(env: &Env) -> Result<Self> {
        let api = env.api;
        // SAFETY: `Drop` releases what is made here.
        Ok(Self { api, ptr: unsafe { api.make(|out| (api.0.CreateRunOptions)(out))? } })
    }

    /// Calls with this one end between two nodes of the graph, with an error.
    pub fn set(&self) {
        // SAFETY: valid while `self` lives. It fails on null arguments only.
        let _ = self.api.check(unsafe { (self.api.0.RunOptionsSetTerminate)(self.ptr.as_ptr()) });
    }

    /// Calls run again.
    pub fn clear(&self) {
        // SAFETY: as in `set`.
        let _ = self.api.check(unsafe { (self.api.0.RunOptionsUnsetTerminate)(self.ptr.as_ptr()) });
    }
}

impl Drop for Termination {
    fn drop(&mut self) {
        // SAFETY: owned, released once.
        unsafe { (self.api.0.ReleaseRunOptions)(self.ptr.as_ptr()) }
    }
}

impl Session {
    pub fn from_file(env: &Env, options: &SessionOptions, path: &Path) -> Result<Self> {
        let path = os_path(path)?;
        let api = env.api;
        // SAFETY: all pointers live through the call; `env` is never released.
        let ptr = unsafe {
            api.make(|out| (api.0.CreateSession)(env.ptr.as_ptr(), path.as_ptr(), options.ptr.as_ptr(), out))?
        };
        Ok(Self { api, ptr })
    }

    pub fn from_bytes(env: &Env, options: &SessionOptions, model: &[u8]) -> Result<Self> {
        let (env, api) = (env.ptr.as_ptr(), env.api);
        // SAFETY: as in `from_file`; the bytes are copied by the call.
        let ptr = unsafe {
            api.make(|out| {
                let (data, length) = (model.as_ptr().cast(), model.len());
                (api.0.CreateSessionFromArray)(env, data, length, options.ptr.as_ptr(), out)
            })?
        };
        Ok(Self { api, ptr })
    }

    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Result<Option<String>> {
        let key = CString::new(key).map_err(|_| Failure::argument("the key has a NUL in it"))?;
        let table = self.api.0;
        let allocator = self.api.allocator()?;
        let mut value = ptr::null_mut();
        // SAFETY: the metadata is released once, after the look-up, which hands out a copy.
        unsafe {
            let metadata = self.api.make(|out| (table.SessionGetModelMetadata)(self.ptr.as_ptr(), out))?;
            let found = self.api.check((table.ModelMetadataLookupCustomMetadataMap)(
                metadata.as_ptr(),
                allocator.as_ptr(),
                key.as_ptr(),
                &mut value,
            ));
            (table.ReleaseModelMetadata)(metadata.as_ptr());
            found?;
            Ok(NonNull::new(value).map(|text| self.api.take_string(allocator, text)))
        }
    }

    /// The graph's inputs, without those that have a default.
    pub fn inputs(&self) -> Result<Vec<Outlet>> {
        let table = self.api.0;
        self.outlets(table.SessionGetInputCount, table.SessionGetInputName, table.SessionGetInputTypeInfo)
    }

    /// The graph's outputs.
    pub fn outputs(&self) -> Result<Vec<Outlet>> {
        let table = self.api.0;
        self.outlets(table.SessionGetOutputCount, table.SessionGetOutputName, table.SessionGetOutputTypeInfo)
    }

    fn outlets(&self, count: GetCount, name: GetName, type_info: GetTypeInfo) -> Result<Vec<Outlet>> {
        let (api, session) = (self.api, self.ptr.as_ptr());
        let allocator = api.allocator()?;
        let mut len = 0;
        // SAFETY: the three functions are of the table and take this session; indices stay below the count;
        // each name and each type info is freed once, after it was read.
        unsafe {
            api.check(count(session, &mut len))?;
            (0..len)
                .map(|i| {
                    let text = api.make(|out| name(session, i, allocator.as_ptr(), out))?;
                    let name = api.take_string(allocator, text);
                    let info = api.make(|out| type_info(session, i, out))?;
                    let described = describe_type(api, info.as_ptr());
                    (api.0.ReleaseTypeInfo)(info.as_ptr());
                    let (element, dims) = described?;
                    Ok(Outlet { name, element, dims })
                })
                .collect()
        }
    }

    /// Runs the graph on `inputs`; writes its output `name` to `output`, or returns it as a tensor where there is
    /// none.
    pub fn run<const N: usize>(
        &mut self,
        input_names: [&CStr; N],
        inputs: [Input<'_>; N],
        name: &CStr,
        output: Option<Output<'_>>,
    ) -> Result<Option<Tensor>> {
        // SAFETY: `&mut self` keeps other calls out of the session.
        unsafe { self.run_beside_others(None, input_names, inputs, name, output) }
    }

    /// [`Self::run`], which `termination` ends early.
    ///
    /// # Safety
    /// The session's provider allows as many calls at once as there are: the CPU's any number, others one.
    pub unsafe fn run_beside_others<const N: usize>(
        &self,
        termination: Option<&Termination>,
        input_names: [&CStr; N],
        inputs: [Input<'_>; N],
        name: &CStr,
        output: Option<Output<'_>>,
    ) -> Result<Option<Tensor>> {
        let bound = output.map(|output| output.value.as_ptr());
        let mut value = bound.unwrap_or(ptr::null_mut());
        let names = input_names.map(CStr::as_ptr);
        let values = inputs.map(|input| input.value.as_ptr().cast_const());
        // SAFETY: `Input` and `Output` borrow the memory behind their values for the length of this call, inputs
        // shared and the output exclusively; other calls are the caller's promise. Run makes a value, which is then
        // ours, only where there is none.
        let status = unsafe {
            (self.api.0.Run)(
                self.ptr.as_ptr(),
                termination.map_or(ptr::null(), |termination| termination.ptr.as_ptr().cast_const()),
                names.as_ptr(),
                values.as_ptr(),
                N,
                &name.as_ptr(),
                1,
                &mut value,
            )
        };
        self.api.check(status)?;
        Ok(if bound.is_some() {
            None
        } else {
            NonNull::new(value).map(|value| Tensor { api: self.api, value })
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: owned, released once.
        unsafe { (self.api.0.ReleaseSession)(self.ptr.as_ptr()) }
    }
}

type GetCount = unsafe extern "system" fn(*const ort_sys::OrtSession, *mut usize) -> ort_sys::OrtStatusPtr;
type GetName = unsafe extern "system" fn(
    *const ort_sys::OrtSession,
    usize,
    *mut ort_sys::OrtAllocator,
    *mut *mut c_char,
) -> ort_sys::OrtStatusPtr;
type GetTypeInfo = unsafe extern "system" fn(
    *const ort_sys::OrtSession,
    usize,
    *mut *mut ort_sys::OrtTypeInfo,
) -> ort_sys::OrtStatusPtr;

/// # Safety
/// `info` must be a valid type info.
unsafe fn describe_type(api: Api, info: *const ort_sys::OrtTypeInfo) -> Result<(Element, Vec<i64>)> {
    let mut tensor = ptr::null();
    // SAFETY: the tensor info is a part of the type info, null where that is no tensor.
    unsafe {
        api.check((api.0.CastTypeInfoToTensorInfo)(info, &mut tensor))?;
        if tensor.is_null() { Ok((Element::NO_TENSOR, Vec::new())) } else { describe_tensor(api, tensor) }
    }
}

/// # Safety
/// `info` must be a valid tensor info.
unsafe fn describe_tensor(
    api: Api,
    info: *const ort_sys::OrtTensorTypeAndShapeInfo,
) -> Result<(Element, Vec<i64>)> {
    let (mut element, mut rank) = (0 as c_int, 0);
    // SAFETY: valid by the caller's promise. The element type is received as the number it is, since one that
    // is newer than this binding would be no value of its enum. `dims` has the length that is named.
    unsafe {
        api.check((api.0.GetTensorElementType)(info, (&raw mut element).cast()))?;
        api.check((api.0.GetDimensionsCount)(info, &mut rank))?;
        let mut dims = vec![0; rank];
        api.check((api.0.GetDimensions)(info, dims.as_mut_ptr(), rank))?;
        Ok((Element(element), dims))
    }
}

#[cfg(unix)]
fn os_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failure::argument("the path has a NUL in it"))
}

#[cfg(windows)]
fn os_path(path: &Path) -> Result<Vec<u16>> {
    use std::os::windows::ffi::OsStrExt;
    let mut wide: Vec<u16> = path.as_os_str().encode_wide().collect();
    if wide.contains(&0) {
        return Err(Failure::argument("the path has a NUL in it"));
    }
    wide.push(0);
    Ok(wide)
}

/// A tensor that ONNX Runtime made.
pub(super) struct Tensor {
    api: Api,
    value: NonNull<ort_sys::OrtValue>,
}

// SAFETY: a value has no tie to the thread that made it.
unsafe impl Send for Tensor {}

impl Tensor {
    /// The tensor's type and shape.
    pub fn describe(&self) -> Result<(Element, Vec<i64>)> {
        // SAFETY: the info is released once, after it was read.
        unsafe {
            let info = self.api.make(|out| (self.api.0.GetTensorTypeAndShape)(self.value.as_ptr(), out))?;
            let described = describe_tensor(self.api, info.as_ptr());
            (self.api.0.ReleaseTensorTypeAndShapeInfo)(info.as_ptr());
            described
        }
    }

    /// The tensor's elements.
    pub fn data<T: Scalar>(&self) -> Result<&[T]> {
        let (element, dims) = self.describe()?;
        if element != T::ELEMENT {
            return Err(Failure::argument(format!("expected {}, got {element}", T::ELEMENT)));
        }
        let len = dims.iter().map(|&dim| dim.max(0) as usize).product();
        if len == 0 {
            return Ok(&[]);
        }
        // SAFETY: the memory has the type that was checked and the product of the dimensions as its length,
        // belongs to the value, and no one writes to it.
        unsafe {
            let data =
                self.api.make::<c_void>(|out| (self.api.0.GetTensorMutableData)(self.value.as_ptr(), out))?;
            Ok(std::slice::from_raw_parts(data.as_ptr().cast::<T>().cast_const(), len))
        }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: owned, released once.
        unsafe { (self.api.0.ReleaseValue)(self.value.as_ptr()) }
    }
}

/// A tensor over memory that is borrowed for reading.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    value: NonNull<ort_sys::OrtValue>,
    memory: PhantomData<&'a ()>,
}

/// A tensor over memory that is borrowed for writing.
pub(super) struct Output<'a> {
    value: NonNull<ort_sys::OrtValue>,
    memory: PhantomData<&'a mut ()>,
}

/// How many tensors a [`Tensors`] keeps: a solver alternates between a few buffers, at two batch sizes.
const KEPT: usize = 16;

/// Tensors over other people's buffers, each made when its buffer is first seen and kept.
///
/// A kept tensor is a bare address. It reaches ONNX Runtime only as an [`Input`] or [`Output`], which borrows the
/// very memory at that address, so that a buffer which is gone in between does no harm.
pub(super) struct Tensors {
    api: Api,
    memory: NonNull<ort_sys::OrtMemoryInfo>,
    /// The shape; the first dimension is set for each tensor.
    dims: Vec<i64>,
    sample: usize,
    kept: Vec<(usize, usize, Element, Tensor)>,
    next: usize,
}

// SAFETY: memory infos have no tie to the thread that made them.
unsafe impl Send for Tensors {}

impl Tensors {
    /// Tensors of shape [batch, sample...].
    pub fn new(env: &Env, sample: &[usize]) -> Result<Self> {
        let api = env.api;
        let mut dims = vec![0];
        for &size in sample {
            dims.push(i64::try_from(size).map_err(|_| Failure::argument("a dimension is too large"))?);
        }
        // SAFETY: released when `self` is dropped.
        let memory = unsafe {
            api.make(|out| {
                (api.0.CreateCpuMemoryInfo)(
                    ort_sys::OrtAllocatorType::OrtDeviceAllocator,
                    ort_sys::OrtMemType::OrtMemTypeDefault,
                    out,
                )
            })?
        };
        Ok(Self {
            api,
            memory,
            dims,
            sample: sample.iter().product(),
            kept: Vec::with_capacity(KEPT),
            next: 0,
        })
    }

    /// A tensor of `batch` samples to read from `data`.
    pub fn input<'a, T: Scalar>(&'a mut self, data: &'a [T], batch: usize) -> Result<Input<'a>> {
        let value = self.over(data.as_ptr().cast_mut(), data.len(), batch)?;
        Ok(Input { value, memory: PhantomData })
    }

    /// A tensor of `batch` samples to write to `data`.
    pub fn output<'a, T: Scalar>(&'a mut self, data: &'a mut [T], batch: usize) -> Result<Output<'a>> {
        let value = self.over(data.as_mut_ptr(), data.len(), batch)?;
        Ok(Output { value, memory: PhantomData })
    }

    fn over<T: Scalar>(
        &mut self,
        data: *mut T,
        len: usize,
        batch: usize,
    ) -> Result<NonNull<ort_sys::OrtValue>> {
        if batch.checked_mul(self.sample) != Some(len) {
            return Err(Failure::argument(format!(
                "a buffer of {len} values is no batch of {batch} samples of {} values",
                self.sample
            )));
        }
        let key = (data as usize, batch, T::ELEMENT);
        if let Some(kept) = self.kept.iter().find(|kept| (kept.0, kept.1, kept.2) == key) {
            return Ok(kept.3.value);
        }
        self.dims[0] = i64::try_from(batch).map_err(|_| Failure::argument("the batch is too large"))?;
        // SAFETY: making a tensor does not touch its memory, whose length was checked against the shape.
        let value = unsafe {
            self.api.make(|out| {
                (self.api.0.CreateTensorWithDataAsOrtValue)(
                    self.memory.as_ptr(),
                    data.cast::<c_void>(),
                    len * size_of::<T>(),
                    self.dims.as_ptr(),
                    self.dims.len(),
                    element_type::<T>(),
                    out,
                )
            })?
        };
        let entry = (key.0, key.1, key.2, Tensor { api: self.api, value });
        if self.kept.len() < KEPT {
            self.kept.push(entry);
        } else {
            self.kept[self.next] = entry;
            self.next = (self.next + 1) % KEPT;
        }
        Ok(value)
    }
}

fn element_type<T: Scalar>() -> ort_sys::ONNXTensorElementDataType {
    use ort_sys::ONNXTensorElementDataType::*;
    match T::ELEMENT {
        Element::I64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Element::F16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Element::BF16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        _ => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    }
}

impl Drop for Tensors {
    fn drop(&mut self) {
        // SAFETY: owned, released once; tensors hold their own copy of the memory info.
        unsafe { (self.api.0.ReleaseMemoryInfo)(self.memory.as_ptr()) }
    }
}
