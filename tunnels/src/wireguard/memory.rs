//! The memory that packets are in, from start to end of a device: taken once, given back at once.
//!
//! From pages of the usual size, or from the pool of huge pages that the administrator set aside
//! (Documentation/admin-guide/mm/hugetlbpage.rst), which spares entries of the TLB. Only the usual
//! ones are free where they are not used; a huge one is taken whole.
//!
//! Fails: when there is no memory at all, for the caller to report. A pool without enough free pages
//! is no failure: the usual ones do.

pub(crate) use super::sys::Chunk;
use super::sys::map;
pub use holdfast_api::tunnel::{Pages, UnknownPages};
use std::io;
use std::ops::Range;

/// Memory that is asked for by places, whether it is in one piece or not.
pub(crate) trait Places {
    /// What is at this place; none where there is no such place.
    fn at(&self, place: Range<usize>) -> Option<&[u8]>;

    /// The same, to be changed.
    fn at_mut(&mut self, place: Range<usize>) -> Option<&mut [u8]>;
}

impl Places for [u8] {
    fn at(&self, place: Range<usize>) -> Option<&[u8]> {
        self.get(place)
    }

    fn at_mut(&mut self, place: Range<usize>) -> Option<&mut [u8]> {
        self.get_mut(place)
    }
}

/// The logarithm of a huge page's bytes.
fn log2(pages: Pages) -> Option<u32> {
    match pages {
        Pages::Usual => None,
        Pages::Huge2M => Some(21),
        Pages::Huge1G => Some(30),
    }
}

/// Chunks of these lengths from such pages, or from the usual ones where there are not enough.
/// Which they are is told, too.
///
/// # Errors
/// There is no memory.
pub(crate) fn take(lengths: &[usize], pages: Pages) -> io::Result<(Vec<Chunk>, Pages)> {
    match map(lengths, log2(pages)) {
        Ok(chunks) => Ok((chunks, pages)),
        Err(error) if pages != Pages::Usual => {
            tracing::warn!(%pages, %error, "no such pages are free; the usual ones are taken");
            Ok((map(lengths, None)?, Pages::Usual))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_pool_has_there_is_memory() {
        for pages in [Pages::Usual, Pages::Huge2M, Pages::Huge1G] {
            let (chunks, got) = take(&[1000, 70_000], pages).unwrap();
            assert!(got == pages || got == Pages::Usual);
            assert_eq!(chunks.iter().map(|chunk| chunk.len()).sum::<usize>(), 71_000);
        }
    }
}
