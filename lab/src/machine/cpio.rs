//! Writes cpio archives of the format "newc", which the kernel unpacks as its first root
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Everything belongs to root, and times are zero: the same files give the same bytes.

use std::io::{self, Read, Write};

/// What an entry is, in the bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const END: &str = "TRAILER!!!";

/// An archive being written to `out`.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Archive { out, written: 0, entries: 0 }
    }

    /// Adds a folder. Those above it must be there already. `name` has no slash in front.
    pub(super) fn directory(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.entry(name, DIRECTORY | mode, 0, &mut io::empty())
    }

    /// Adds a symbolic link to `target`.
    pub(super) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, target.len() as u64, &mut target.as_bytes())
    }

    /// Adds a file of `size` bytes, read from `content`.
    pub(super) fn file(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        self.entry(name, FILE | mode, size, content)
    }

    /// Ends the archive and tells its size.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.entry(END, 0, 0, &mut io::empty())?;
        self.out.flush()?;
        Ok(self.written)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, "cpio takes up to 4 GiB");
        let size = u32::try_from(size).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.entries += 1;
        // Magic; inode, mode, uid, gid, links, mtime, size, device twice, rdevice twice, name size, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let digits: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        self.put(format!("070701{digits}{name}\0").as_bytes())?;
        self.pad()?;
        let copied = io::copy(&mut content.take(u64::from(size)), &mut self.out)?;
        if copied != u64::from(size) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter"));
        }
        self.written += copied;
        self.pad()
    }

    /// Header with name, and content, each end at a multiple of four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 3][..usize::try_from(missing).unwrap_or(0)])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An independent reader: (name, mode, content) of every entry before the trailer.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            if name == END {
                return entries;
            }
            let content = bytes[start..start + size].to_vec();
            entries.push((name, u32::try_from(mode).unwrap(), content));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            files in prop::collection::vec(("[a-z/]{1,40}", prop::collection::vec(any::<u8>(), 0..50)), 0..8)
        ) {
            let mut bytes = Vec::new();
            let mut archive = Archive::new(&mut bytes);
            for (name, content) in &files {
                archive.file(name, 0o644, content.len() as u64, &mut &content[..]).unwrap();
            }
            let size = archive.finish().unwrap();
            prop_assert_eq!(size, bytes.len() as u64);
            let want: Vec<_> = files.into_iter().map(|(name, content)| (name, 0o100_644, content)).collect();
            prop_assert_eq!(read(&bytes), want);
        }
    }

    #[test]
    fn folders_and_links_have_their_kinds() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("usr", 0o755).unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        archive.finish().unwrap();
        let entries = read(&bytes);
        assert_eq!(entries[0], ("usr".into(), 0o040_755, vec![]));
        assert_eq!(entries[1], ("bin".into(), 0o120_777, b"usr/bin".to_vec()));
    }

    #[test]
    fn a_file_that_shrinks_is_noticed() {
        let mut archive = Archive::new(Vec::new());
        let error = archive.file("f", 0o644, 10, &mut &b"short"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
