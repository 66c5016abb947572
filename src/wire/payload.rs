//! What travels inside a frame: opaque bytes, or typed rkyv values read in place.
//!
//! [`Body`] is anything that can be written into a frame. [`Payload`] ties an rkyv type to the
//! number that names it on the wire; [`payload!`](crate::payload) implements both.
//!
//! Untrusted bytes are never accessed unchecked: [`access`] validates on every call.

use std::num::NonZeroUsize;

use bytes::Bytes;
use rkyv::Archive;
use rkyv::Portable;
use rkyv::api::access_with_context;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Source};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Writer};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;

use crate::error::AccessError;
use crate::wire::header::Codec;

/// Alignment that rkyv payloads may rely on; frames start at a multiple of it.
pub const PAYLOAD_ALIGN: usize = crate::wire::header::FRAME_ALIGN;

/// Why a body could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The output was too short; nothing useful was written. This many bytes are needed.
    #[error("the body needs {bytes} bytes")]
    Overflow {
        /// Length of the whole body.
        bytes: usize,
    },
    /// The type's own `Serialize` refused.
    #[error("the type's own Serialize refused")]
    Unserializable,
}

/// Working memory for serialisers, reused from message to message.
///
/// Grows to what the deepest type needs, then allocates no more.
#[derive(Default)]
pub struct Scratch {
    arena: Arena,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("capacity", &self.arena.capacity()).finish()
    }
}

impl Scratch {
    /// Empty working memory.
    #[must_use]
    pub fn new() -> Self {
        Self { arena: Arena::new() }
    }
}

/// Something that can be sent: it writes itself into the frame.
///
/// Implemented for byte strings and, through [`payload!`](crate::payload), for rkyv types.
pub trait Body {
    /// How the receiver is to read it.
    fn codec(&self) -> Codec {
        Codec::Opaque
    }

    /// The application's number of the type, 0 for none.
    fn type_id(&self) -> u32 {
        0
    }

    /// Writes the body to the front of `out` and returns its length.
    ///
    /// May be called more than once for one message, and is to write the same each time.
    ///
    /// # Errors
    ///
    /// [`BodyError::Overflow`] with the length needed when `out` is too short: the caller finds
    /// more room and calls again.
    fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError>;

    /// The same bytes as [`encode`](Self::encode) writes, where they are shared memory already:
    /// long ones are then sent from there and not copied, see
    /// [`in_place_bytes_min`](crate::ConfigBuilder::in_place_bytes_min).
    #[inline]
    fn shared(&self) -> Option<&Bytes> {
        None
    }
}

impl Body for [u8] {
    #[inline(always)]
    fn encode(&self, out: &mut [u8], _: &mut Scratch) -> Result<usize, BodyError> {
        match out.get_mut(..self.len()) {
            Some(target) => {
                target.copy_from_slice(self);
                Ok(self.len())
            }
            None => Err(BodyError::Overflow { bytes: self.len() }),
        }
    }
}

macro_rules! body_as_bytes {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<$($generics)*> Body for $type {
            #[inline]
            fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
                let bytes: &[u8] = self.as_ref();
                bytes.encode(out, scratch)
            }
        }
    )*};
}
body_as_bytes!([] Vec<u8>, [] str, [] String, [const N: usize] [u8; N]);

/// Implements [`Body`] for types that hold a payload ([`Bytes`]) with its `codec` and `type_id`, in
/// fields of these names.
macro_rules! body_of_payload {
    ($(#[$doc:meta])* $type:ty) => {
        $(#[$doc])*
        impl $crate::wire::Body for $type {
            fn codec(&self) -> $crate::wire::Codec {
                self.codec
            }

            fn type_id(&self) -> u32 {
                self.type_id
            }

            fn encode(
                &self,
                out: &mut [u8],
                scratch: &mut $crate::wire::Scratch,
            ) -> Result<usize, $crate::wire::BodyError> {
                self.payload.encode(out, scratch)
            }

            fn shared(&self) -> Option<&bytes::Bytes> {
                Some(&self.payload)
            }
        }
    };
}
pub(crate) use body_of_payload;

impl Body for Bytes {
    #[inline]
    fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
        self[..].encode(out, scratch)
    }

    #[inline]
    fn shared(&self) -> Option<&Bytes> {
        Some(self)
    }
}

impl<B: Body + ?Sized> Body for &B {
    fn codec(&self) -> Codec {
        (**self).codec()
    }

    fn type_id(&self) -> u32 {
        (**self).type_id()
    }

    #[inline]
    fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
        (**self).encode(out, scratch)
    }

    #[inline]
    fn shared(&self) -> Option<&Bytes> {
        (**self).shared()
    }
}

/// An archived type whose bytes can be validated: every archive of a type that derives
/// `rkyv::Archive` with bytecheck on, which is the default.
pub trait Validated: Portable + for<'a> CheckBytes<HighValidator<'a, Failure>> {}
impl<T: Portable + for<'a> CheckBytes<HighValidator<'a, Failure>>> Validated for T {}

/// An rkyv type with a number that names it on the wire.
///
/// Implement it with [`payload!`](crate::payload), which also implements [`Body`]:
///
/// ```
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
/// struct Setpoint {
///     axis: u32,
///     position: f64,
/// }
/// ringwire::payload!(Setpoint = 0x0101);
///
/// use ringwire::Payload;
/// assert_eq!(Setpoint::TYPE_ID, 0x0101);
/// ```
pub trait Payload: Archive<Archived: Validated> + Body {
    /// The type's number on the wire; not 0. Both ends must agree on it.
    const TYPE_ID: u32;
}

/// Gives rkyv types their numbers on the wire: implements [`Payload`] and [`Body`] for each.
///
/// The type must derive `rkyv::Archive` and `rkyv::Serialize`. A number of 0 does not compile, nor
/// does a type whose archive needs more than 16 bytes of alignment.
///
/// ```
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Start {
///     mode: u8,
/// }
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Stop;
///
/// ringwire::payload! {
///     Start = 1,
///     Stop = 2,
/// }
/// ```
#[macro_export]
macro_rules! payload {
    ($($type:ty = $id:expr),+ $(,)?) => {$(
        impl $crate::Payload for $type {
            const TYPE_ID: u32 = {
                const ID: u32 = $id;
                const { assert!(ID != 0, "type number 0 means `no type`") };
                $crate::wire::payload::assert_alignment_fits::<$type>();
                ID
            };
        }

        impl $crate::Body for $type {
            fn codec(&self) -> $crate::Codec {
                $crate::Codec::Rkyv
            }

            fn type_id(&self) -> u32 {
                <$type as $crate::Payload>::TYPE_ID
            }

            #[inline]
            fn encode(
                &self,
                out: &mut [u8],
                scratch: &mut $crate::Scratch,
            ) -> ::core::result::Result<usize, $crate::BodyError> {
                $crate::serialize(self, out, scratch)
            }
        }
    )+};
}

/// Fails to compile when archives of `T` need more alignment than a frame gives them.
#[doc(hidden)]
pub const fn assert_alignment_fits<T: Archive>() {
    assert!(
        align_of::<T::Archived>() <= PAYLOAD_ALIGN,
        "the archived type needs more than the 16-byte alignment of a frame's payload"
    );
}

/// Writes `value` as an rkyv archive to the front of `out` and returns its length.
///
/// What [`payload!`](crate::payload) calls. One pass: when `out` is too short the rest is only
/// counted, so that the caller learns the exact length.
///
/// # Errors
///
/// [`BodyError`]: too little room, or the type's own `Serialize` refused.
#[inline]
pub fn serialize<T>(value: &T, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError>
where
    T: for<'a, 'b> rkyv::Serialize<HighSerializer<InPlace<'b>, ArenaHandle<'a>, Failure>>,
{
    let writer = InPlace { out, written: 0 };
    let writer = rkyv::api::high::to_bytes_in_with_alloc(value, writer, scratch.arena.acquire())
        .map_err(|Failure| BodyError::Unserializable)?;
    if writer.written > writer.out.len() {
        return Err(BodyError::Overflow { bytes: writer.written });
    }
    Ok(writer.written)
}

/// Writes into a slice; past its end it only counts.
#[derive(Debug)]
pub struct InPlace<'a> {
    out: &'a mut [u8],
    written: usize,
}

impl Positional for InPlace<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.written
    }
}

impl<E: Source> Writer<E> for InPlace<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.written + bytes.len();
        if let Some(target) = self.out.get_mut(self.written..end) {
            target.copy_from_slice(bytes);
        }
        self.written = end;
        Ok(())
    }
}

/// How many pointers deep an archive may nest (a `Vec` in a `Box` in a `Vec` is three).
///
/// Validation recurses, so a peer that nests a recursive type (a list, a tree) a hundred thousand
/// times within one frame would otherwise overflow the stack, which ends the process.
pub const ACCESS_DEPTH_MAX: usize = 64;

/// Reads `bytes` as a `T` in place, validating them first.
///
/// # Errors
///
/// [`AccessError`], see there. An archive that nests deeper than [`ACCESS_DEPTH_MAX`] is invalid.
/// Nothing is copied and nothing allocated, except by types with shared pointers (`Rc`, `Arc`).
#[inline]
pub fn access<T: Payload>(
    codec: Codec,
    type_id: u32,
    bytes: &[u8],
) -> Result<&T::Archived, AccessError> {
    if codec != Codec::Rkyv {
        return Err(AccessError::NotRkyv { codec });
    }
    if type_id != T::TYPE_ID {
        return Err(AccessError::TypeMismatch { expected: T::TYPE_ID, got: type_id });
    }
    let align = align_of::<T::Archived>();
    if bytes.as_ptr().align_offset(align) != 0 {
        return Err(AccessError::Misaligned { align });
    }
    // Two more: rkyv counts the root as a level, and refuses the level that reaches its limit.
    let depth_max = NonZeroUsize::new(ACCESS_DEPTH_MAX + 2);
    let archive = ArchiveValidator::with_max_depth(bytes, depth_max);
    let mut validator = Validator::new(archive, SharedValidator::new());
    access_with_context::<T::Archived, _, Failure>(bytes, &mut validator)
        .map_err(|Failure| AccessError::Invalid { type_id })
}
