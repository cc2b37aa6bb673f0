//! Handles: numbers that look like pointers.
//!
//! A handle holds a slot, the slot's generation and the handle's type, and its lowest bit is set, which no
//! address of an object of ours or of `malloc` has. It is looked up in a table and never dereferenced: a stale, foreign or
//! mistyped handle is found out, with certainty for those that this library gave out, since a slot whose generations
//! are used up is retired.
//!
//! A child of fork() has a table of its own, in which its parent's handles are marked as such: most of what they stand for
//! lives by threads that the child does not have.

use super::error_text::ErrorText;
use super::types::*;
use crate::engine::{Engine, Ticket};
use crate::fork::{Inherit, PerProcess};
use crate::run::Cancel;
use crate::{Error, Model, Result, Run, Sampler, Status};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a handle stands for. Clones share the object: a child holds its parents by such clones.
#[derive(Clone)]
pub enum Object {
    Runtime(Runtime),
    Model(Model),
    Sampler(Arc<Sampler>),
    Run(Arc<Flight>),
    Cancel(Cancel),
    Error(Arc<ErrorText>),
    Engine(Arc<Engine>),
    Ticket(Arc<Ticket>),
}

impl Object {
    /// What is only read, and needs neither thread nor lock: it works in a child of fork(), too.
    fn survives_fork(&self) -> bool {
        match self {
            Self::Runtime(_) | Self::Sampler(_) | Self::Error(_) => true,
            Self::Model(_) | Self::Run(_) | Self::Cancel(_) | Self::Engine(_) | Self::Ticket(_) => false,
        }
    }
}

/// A run and the number that messages call it by.
pub struct Flight {
    pub id: u64,
    pub run: Mutex<Run>,
}

impl Flight {
    pub fn new(run: Run) -> Arc<Self> {
        Arc::new(Self { id: next_run(), run: Mutex::new(run) })
    }
}

/// Numbers of runs count from 1.
pub fn next_run() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// ONNX Runtime as this build knows it.
#[cfg(feature = "onnxruntime")]
pub type Runtime = &'static crate::network::onnxruntime::Runtime;
/// Without ONNX Runtime there is none to stand for.
#[cfg(not(feature = "onnxruntime"))]
pub type Runtime = std::convert::Infallible;

/// A C handle type and the Rust object behind it.
pub trait Handle: Sized {
    type Object;
    const TAG: usize;
    const NAME: &str;
    fn wrap(object: Self::Object) -> Object;
    fn unwrap(object: Object) -> Option<Self::Object>;
}

macro_rules! handles {
    ($($tag:literal $handle:ident $variant:ident($object:ty);)*) => {
        $(impl Handle for $handle {
            type Object = $object;
            const TAG: usize = $tag;
            const NAME: &str = stringify!($handle);
            fn wrap(object: $object) -> Object {
                Object::$variant(object)
            }
            fn unwrap(object: Object) -> Option<$object> {
                match object {
                    Object::$variant(object) => Some(object),
                    _ => None,
                }
            }
        })*

        fn type_name(tag: usize) -> Option<&'static str> {
            match tag {
                $($tag => Some(stringify!($handle)),)*
                _ => None,
            }
        }
    };
}

handles! {
    1 psld_runtime Runtime(Runtime);
    2 psld_model Model(Model);
    3 psld_sampler Sampler(Arc<Sampler>);
    4 psld_run Run(Arc<Flight>);
    5 psld_cancel Cancel(Cancel);
    6 psld_error Error(Arc<ErrorText>);
    7 psld_engine Engine(Arc<Engine>);
    8 psld_ticket Ticket(Arc<Ticket>);
}

/// generation | slot | tag (4 bits) | 1
const GENERATION_SHIFT: u32 = usize::BITS / 2;
const SLOT_SHIFT: u32 = 5;
const MAX_SLOTS: usize = 1 << (GENERATION_SHIFT - SLOT_SHIFT);
const MAX_GENERATION: usize = (1 << (usize::BITS - GENERATION_SHIFT)) - 1;

struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    generation: usize,
    entry: Entry,
}

#[derive(Clone)]
enum Entry {
    Free,
    /// Given out by this process.
    Own(Object),
    /// Given out by the process that this one was forked from, with what of it works here.
    Inherited(Option<Object>),
    /// The table was being written when this process was forked: whatever is there is that process'.
    Unknown,
}

static TABLE: PerProcess<Table> = PerProcess::new();

/// The slots that there are, for a child that cannot look.
static SLOTS: AtomicUsize = AtomicUsize::new(0);

impl Inherit for Table {
    fn inherit(parents: Option<&Self>) -> Self {
        let Some(parents) = parents else {
            let unknown = |_| Slot { generation: MAX_GENERATION, entry: Entry::Unknown };
            return Self {
                slots: (0..SLOTS.load(Ordering::Acquire)).map(unknown).collect(),
                free: Vec::new(),
            };
        };
        let inherited = |slot: &Slot| {
            let entry = match &slot.entry {
                Entry::Own(object) => Entry::Inherited(Some(object.clone()).filter(Object::survives_fork)),
                other => other.clone(),
            };
            Slot { generation: slot.generation, entry }
        };
        Self { slots: parents.slots.iter().map(inherited).collect(), free: parents.free.clone() }
    }
}

impl Slot {
    /// Whether a handle of this generation is of this slot's content.
    fn is(&self, generation: usize) -> bool {
        self.generation == generation || matches!(self.entry, Entry::Unknown)
    }
}

/// Gives out a handle for `object`.
pub fn create<H: Handle>(object: H::Object) -> Result<*mut H> {
    let mut table = TABLE.write();
    let slot = match table.free.pop() {
        Some(slot) => slot,
        None if table.slots.len() < MAX_SLOTS => {
            table.slots.push(Slot { generation: 1, entry: Entry::Free });
            SLOTS.store(table.slots.len(), Ordering::Release);
            table.slots.len() - 1
        }
        None => return Err(Error::new(Status::OutOfMemory, format!("more than {MAX_SLOTS} handles"))),
    };
    table.slots[slot].entry = Entry::Own(H::wrap(object));
    let value = table.slots[slot].generation << GENERATION_SHIFT | slot << SLOT_SHIFT | H::TAG << 1 | 1;
    Ok(std::ptr::without_provenance_mut(value))
}

/// The object of the argument `name`.
pub fn get<H: Handle>(handle: *const H, name: &str) -> Result<H::Object> {
    let slot = decode(handle, name)?;
    let table = TABLE.read();
    let object =
        match table.slots.get(slot).filter(|slot| slot.is(generation(handle))).map(|slot| &slot.entry) {
            Some(Entry::Own(object) | Entry::Inherited(Some(object))) => H::unwrap(object.clone()),
            Some(Entry::Inherited(None) | Entry::Unknown) => {
                return Err(Error::forked(format_args!("{name}: this {}", H::NAME)));
            }
            Some(Entry::Free) | None => None,
        };
    object.ok_or_else(|| stale::<H>(name))
}

/// The object of an argument that may be NULL.
pub fn get_optional<H: Handle>(handle: *const H, name: &str) -> Result<Option<H::Object>> {
    if handle.is_null() { Ok(None) } else { get(handle, name).map(Some) }
}

/// Ends a handle and returns what it stood for, to be dropped outside of the table's lock; `None` for NULL, and in a child
/// of fork() for what its parent's handle stands for there.
pub fn remove<H: Handle>(handle: *const H, name: &str) -> Result<Option<H::Object>> {
    if handle.is_null() {
        return Ok(None);
    }
    let slot = decode(handle, name)?;
    let mut table = TABLE.write();
    let Some(entry) = table.slots.get_mut(slot).filter(|slot| slot.is(generation(handle))) else {
        return Err(stale::<H>(name));
    };
    let object = match &entry.entry {
        Entry::Unknown => return Ok(None),
        Entry::Free => return Err(stale::<H>(name)),
        Entry::Inherited(None) => None,
        Entry::Own(object) | Entry::Inherited(Some(object)) => match H::unwrap(object.clone()) {
            Some(object) => Some(object),
            None => return Err(stale::<H>(name)),
        },
    };
    // The object lives on in what is returned.
    entry.entry = Entry::Free;
    if entry.generation < MAX_GENERATION {
        entry.generation += 1;
        table.free.push(slot);
    }
    Ok(object)
}

/// Ends a handle; NULL is fine.
pub fn release<H: Handle>(handle: *mut H, name: &str) -> Result<()> {
    remove(handle, name).map(drop)
}

/// How many handles this process has given out and not freed.
pub fn live() -> usize {
    TABLE.read().slots.iter().filter(|slot| matches!(slot.entry, Entry::Own(_))).count()
}

fn generation<H>(handle: *const H) -> usize {
    handle.addr() >> GENERATION_SHIFT
}

/// The slot of a handle that is not NULL and says of itself that it is of type `H`.
fn decode<H: Handle>(handle: *const H, name: &str) -> Result<usize> {
    let value = handle.addr();
    if value == 0 {
        return Err(Error::new(Status::NullPointer, format!("{name}: expected a {}, got NULL", H::NAME)));
    }
    let (tag, slot) = (value >> 1 & 0b1111, (value >> SLOT_SHIFT) & (MAX_SLOTS - 1));
    match type_name(tag).filter(|_| value & 1 == 1) {
        Some(_) if tag == H::TAG => Ok(slot),
        Some(other) => Err(invalid(format!("{name}: expected a {}, got a {other}", H::NAME))),
        None => {
            Err(invalid(format!("{name}: expected a {}, got a pointer that is no handle of psld", H::NAME)))
        }
    }
}

fn stale<H: Handle>(name: &str) -> Error {
    invalid(format!("{name}: this {} was freed, or never given out", H::NAME))
}

fn invalid(message: String) -> Error {
    Error::new(Status::InvalidHandle, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_and_its_old_handle_is_not() {
        let old = create::<psld_cancel>(Cancel::new()).unwrap();
        release(old, "cancel").unwrap();
        let new = create::<psld_cancel>(Cancel::new()).unwrap();
        assert_ne!(old, new);
        assert_eq!(get(old, "cancel").unwrap_err().status(), Status::InvalidHandle);
        assert_eq!(release(old, "cancel").unwrap_err().status(), Status::InvalidHandle);
        release(new, "cancel").unwrap();
    }

    #[test]
    fn a_slot_without_generations_left_is_retired() {
        let handle = create::<psld_cancel>(Cancel::new()).unwrap();
        let slot = decode(handle, "cancel").unwrap();
        TABLE.write().slots[slot].generation = MAX_GENERATION;
        let last =
            handle.map_addr(|a| a & ((1 << GENERATION_SHIFT) - 1) | MAX_GENERATION << GENERATION_SHIFT);
        release(last, "cancel").unwrap();
        assert!(!TABLE.read().free.contains(&slot));
        assert_eq!(get(last, "cancel").unwrap_err().status(), Status::InvalidHandle);
    }
}
