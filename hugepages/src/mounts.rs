//! hugetlbfs mounts: which there are, and which are missing. Pure.
//!
//! Compared are the page size and the limit. Mode and owner are given to a new mount and then
//! belong to whoever uses it. Only mounts at wanted places are touched, and only hugetlbfs.

use crate::boot::{parse_size, render_size};
use crate::model::{Bytes, HugetlbMount, Mount, MountHave};
use crate::plan::{Refusal, Step};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Steps to the wanted mounts, and the places that something else has taken.
pub(crate) fn plan(want: &[Mount], have: &[MountHave]) -> (Vec<Step>, Vec<Refusal>) {
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    for mount in want {
        // The kernel lists mounts in order; the last one at a place hides the others.
        match have.iter().rfind(|found| found.path == mount.path).map(|found| found.hugetlb) {
            None => steps.push(Step::Mount(mount.clone())),
            Some(Some(found)) if fits(mount, found) => {}
            Some(Some(_)) => {
                steps.push(Step::Unmount { path: mount.path.clone() });
                steps.push(Step::Mount(mount.clone()));
            }
            Some(None) => refused.push(Refusal::MountTaken { path: mount.path.clone() }),
        }
    }
    (steps, refused)
}

/// Whether a mount is the wanted one. The kernel keeps the limit in whole pages.
pub(crate) fn fits(want: &Mount, have: HugetlbMount) -> bool {
    let whole = |limit: Bytes| want.size.times(want.size.fitting(limit));
    want.size == have.size && want.limit.map(whole) == have.limit
}

/// Options for mount(2), as hugetlbfs parses them.
pub(crate) fn options(mount: &Mount) -> String {
    let limit = mount.limit.map(|limit| format!(",size={}", limit.0)).unwrap_or_default();
    format!(
        "pagesize={}{limit},mode={:o},uid={},gid={}",
        render_size(mount.size),
        mount.mode,
        mount.uid,
        mount.gid
    )
}

/// Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)); lines of another form are skipped.
pub(crate) fn parse_mountinfo(text: &[u8]) -> Vec<MountHave> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountHave> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Optional fields lie between the sixth one and a single hyphen.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let path = unescape(fields.get(4)?);
    let hugetlb = match *fields.get(dash + 1)? {
        b"hugetlbfs" => Some(parse_options(std::str::from_utf8(fields.get(dash + 3)?).ok()?)?),
        _ => None,
    };
    Some(MountHave { path, hugetlb })
}

fn parse_options(text: &str) -> Option<HugetlbMount> {
    let option = |name| {
        text.split(',').find_map(|word| word.split_once('=').filter(|(key, _)| *key == name))
    };
    Some(HugetlbMount {
        size: parse_size(option("pagesize")?.1)?,
        limit: option("size").and_then(|(_, bytes)| bytes.parse().ok()).map(Bytes),
    })
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// Whether `path` can be a mount point of ours: absolute, and without a byte that mount(2)
/// cannot take.
pub(crate) fn is_usable(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PageSize;

    fn mount(limit: Option<Bytes>) -> Mount {
        Mount {
            path: "/dev/huge 2M".into(),
            size: PageSize::M2,
            limit,
            mode: 0o770,
            uid: 0,
            gid: 107,
        }
    }

    // The hugetlbfs lines are as Linux 6.18 prints them, the last one with a blank in its path.
    const MOUNTINFO: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        60 24 0:40 / /dev/hugepages rw,nosuid shared:4 master:1 - hugetlbfs hugetlbfs rw,pagesize=1024M\n\
        65 44 0:39 / /dev/huge\\0402M rw,relatime - hugetlbfs none rw,gid=107,mode=770,pagesize=2M,size=16777216\n\
        cut short";

    #[test]
    fn mountinfo_is_read_as_the_kernel_writes_it() {
        let found = parse_mountinfo(MOUNTINFO);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], MountHave { path: "/".into(), hugetlb: None });
        assert_eq!(found[1].hugetlb, Some(HugetlbMount { size: PageSize::G1, limit: None }));
        let limit = Some(Bytes::mib(16));
        let hugetlb = Some(HugetlbMount { size: PageSize::M2, limit });
        assert_eq!(found[2], MountHave { path: "/dev/huge 2M".into(), hugetlb });
    }

    #[test]
    fn a_mount_is_made_kept_replaced_or_left_to_its_owner() {
        let have = parse_mountinfo(MOUNTINFO);
        assert_eq!(plan(&[mount(Some(Bytes::mib(16)))], &have), (vec![], vec![]));
        assert_eq!(
            plan(&[mount(Some(Bytes::mib(17)))], &have),
            (vec![], vec![]),
            "limits are whole pages"
        );
        let (steps, _) = plan(&[mount(None)], &have);
        assert_eq!(steps, [Step::Unmount { path: mount(None).path }, Step::Mount(mount(None))]);
        assert_eq!(plan(&[mount(None)], &[]).0, [Step::Mount(mount(None))]);
        let root = Mount { path: "/".into(), ..mount(None) };
        assert_eq!(plan(&[root], &have).1, [Refusal::MountTaken { path: "/".into() }]);
    }

    #[test]
    fn options_are_those_of_hugetlbfs() {
        assert_eq!(
            options(&mount(Some(Bytes::mib(4)))),
            "pagesize=2M,size=4194304,mode=770,uid=0,gid=107"
        );
    }
}
