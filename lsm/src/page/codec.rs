//! What pages are packed with: LZ4 and zstd, each page for itself.
//!
//! Both need memory that is larger than a page: hash tables to pack, and for zstd a context to
//! unpack too. It is the thread's, made at the first page that needs it and used for every page
//! after: whoever packs or unpacks does so from beginning to end without waiting, so the shards of
//! a core take turns by themselves, and no page costs an allocation.
//!
//! **Determinism.** Packed bytes are stored, and are equal on all replicas. So nothing of one page
//! may show in another one's bytes: LZ4's two tables hash differently and are chosen by the page's
//! length, not by which was there; zstd gives the same with a used context as with a new one (its
//! own fuzzers hold it to that, and a test here does). The crates are pinned, the version of the
//! linked library is asserted at compile time, golden bytes are tested.
//!
//! **Trust.** What is unpacked passed a checksum, and may be garbage nevertheless. Output is
//! bounded by the slice it goes to, whose length the table's index gave; bytes that would be more,
//! or are fewer, are refused. Neither codec allocates by what its input says.

use std::cell::RefCell;

use lz4_flex::block::CompressTable;
use zstd_safe::{CCtx, DCtx};

use crate::config::Compression;

/// Half of what zstd's default (3) costs on pages of a few KiB, for nearly the same size: see
/// "Pages are packed one by one" in `docs/DECISIONS.md`.
const ZSTD_LEVEL: i32 = 1;

/// 1.5.7, whose output the golden bytes are.
const _: () = assert!(zstd_safe::VERSION_NUMBER == 10_507);

/// From this length on LZ4 needs the table of wider places.
const LZ4_SMALL_LEN_MAX: usize = u16::MAX as usize;

#[derive(Default)]
struct Codecs {
    lz4_small: Option<CompressTable>,
    lz4_large: Option<CompressTable>,
    zstd_pack: Option<CCtx<'static>>,
    zstd_unpack: Option<DCtx<'static>>,
}

thread_local! {
    static CODECS: RefCell<Codecs> = RefCell::default();
}

/// Bytes that a packed body of this length takes at most.
fn packed_len_max(compression: Compression, len: usize) -> usize {
    match compression {
        Compression::None => len,
        Compression::Lz4 => lz4_flex::block::get_maximum_output_size(len),
        Compression::Zstd => zstd_safe::compress_bound(len),
    }
}

/// Appends a page's body to `out`: packed if that saves at least an eighth, else as it is. Gives
/// which of both.
pub(super) fn pack(compression: Compression, body: &[u8], out: &mut Vec<u8>) -> Compression {
    let start = out.len();
    if compression != Compression::None {
        out.resize(start + packed_len_max(compression, body.len()), 0);
        let len =
            CODECS.with_borrow_mut(|codecs| codecs.pack(compression, body, &mut out[start..]));
        if len <= body.len() - body.len() / 8 {
            out.truncate(start + len);
            return compression;
        }
        out.truncate(start);
    }
    out.extend_from_slice(body);
    Compression::None
}

/// Fills `body` from its packed form; false where that is not what the bytes stand for.
pub(super) fn unpack(compression: Compression, packed: &[u8], body: &mut [u8]) -> bool {
    let expected = body.len();
    let len = match compression {
        Compression::None => {
            if packed.len() == expected {
                body.copy_from_slice(packed);
            }
            Some(packed.len())
        }
        Compression::Lz4 => lz4_flex::block::decompress_into(packed, body).ok(),
        Compression::Zstd => CODECS.with_borrow_mut(|codecs| {
            let context = codecs.zstd_unpack.get_or_insert_with(DCtx::create);
            context.decompress(body, packed).ok()
        }),
    };
    len == Some(expected)
}

impl Codecs {
    /// Packs into `out`, which has [`packed_len_max`] bytes; gives how many were taken.
    fn pack(&mut self, compression: Compression, body: &[u8], out: &mut [u8]) -> usize {
        match compression {
            Compression::None => unreachable!("a body as it is is not packed"),
            Compression::Lz4 => {
                let table = match body.len() < LZ4_SMALL_LEN_MAX {
                    true => self.lz4_small.get_or_insert_with(CompressTable::small),
                    false => self.lz4_large.get_or_insert_with(CompressTable::large),
                };
                lz4_flex::block::compress_into_with_table(body, out, table)
                    .expect("the output has the size that the codec asks for")
            }
            Compression::Zstd => {
                let context = self.zstd_pack.get_or_insert_with(CCtx::create);
                context.compress(out, body, ZSTD_LEVEL).unwrap_or_else(|code| {
                    panic!("zstd cannot pack a page: {}", zstd_safe::get_error_name(code))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies of all lengths and kinds: some pack, some do not, some need LZ4's larger table.
    fn bodies() -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for (number, len) in [40, 500, 4000, 9000, 66_000, 200_000, 3000].into_iter().enumerate() {
            let mut state = number as u64 + 1;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            };
            bodies.push((0..len).map(|at| if at % 16 < 4 { noise() } else { 7 }).collect());
            bodies.push((0..len).map(|_| noise()).collect());
            bodies.push((0..len).map(|_| noise() & 15).collect());
        }
        bodies
    }

    fn packed(compression: Compression, body: &[u8]) -> (Compression, Vec<u8>) {
        let mut out = Vec::new();
        let used = pack(compression, body, &mut out);
        (used, out)
    }

    #[test]
    fn what_is_packed_unpacks_to_itself() {
        for compression in Compression::ALL {
            let mut smaller = 0;
            for body in bodies() {
                let (used, bytes) = packed(compression, &body);
                smaller += usize::from(used != Compression::None);
                assert!(used == Compression::None || bytes.len() <= body.len() * 7 / 8 + 1);
                let mut again = vec![0; body.len()];
                assert!(unpack(used, &bytes, &mut again));
                assert_eq!(again, body);
            }
            assert_eq!(smaller > 4, compression != Compression::None, "{compression:?}");
        }
    }

    /// Replicas come to a page with different histories: what a thread packed and unpacked before
    /// must not show.
    #[test]
    fn packed_bytes_do_not_depend_on_what_was_packed_before() {
        for compression in [Compression::Lz4, Compression::Zstd] {
            let fresh: Vec<_> = bodies()
                .into_iter()
                .map(|body| std::thread::spawn(move || packed(compression, &body)).join())
                .map(|result| result.expect("it packs"))
                .collect();
            let bodies = bodies();
            let orders = [1, 2, 4, 5, 8, 11].map(|step| (0..bodies.len()).map(move |i| i * step));
            for at in orders.into_iter().flatten().map(|at| at % bodies.len()) {
                assert_eq!(packed(compression, &bodies[at]), fresh[at], "body {at}");
            }
        }
    }
}
