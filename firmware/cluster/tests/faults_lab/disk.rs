//! Disks that are full when they are told to be.

use super::run;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk of the manager's own, for what it keeps. It goes with the story's thread.
pub struct StateDisk(PathBuf);

impl StateDisk {
    /// Below the state of the node's manager, whose files stay.
    pub fn under(seat: &Path) -> Self {
        let state = seat.join("var/lib/holdfast");
        std::fs::create_dir_all(&state).unwrap();
        let (state, kept) = (state.display(), seat.join("kept").display().to_string());
        run(&format!("cp -a {state}/. {kept}"));
        run(&format!("mount -t tmpfs -o size=1m,mode=700 none {state}"));
        run(&format!("cp -a {kept}/. {state}"));
        StateDisk(seat.join("var/lib/holdfast"))
    }

    pub fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 1024]).is_ok() {}
        let full = filler.write_all(&[0; 1024]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    pub fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

/// A small disk of the node, over one of its folders, whose files stay. It goes with the node.
pub struct NodeDisk {
    pid: i32,
    at: String,
}

impl NodeDisk {
    /// Over `folder` as this process of the node sees it, with `mib` MiB free.
    pub fn over(pid: i32, folder: &str, mib: u64) -> Self {
        let at = format!("/run/small{}", folder.replace('/', "-"));
        let disk = NodeDisk { pid, at };
        let used = disk.run(&format!("mkdir -p {folder} {} && du -sm {folder} | cut -f1", disk.at));
        let size = used.trim().parse::<u64>().unwrap() + mib;
        let NodeDisk { at, .. } = &disk;
        disk.run(&format!(
            "mount -t tmpfs -o size={size}m,mode=700 none {at} && cp -a {folder}/. {at} && \
             mount --bind {at} {folder}"
        ));
        disk
    }

    /// There is room again.
    pub fn grow(&self) {
        self.run(&format!("mount -o remount,size=1g {}", self.at));
    }

    fn run(&self, line: &str) -> String {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid)).args(["--mount", "--", "sh", "-ec", line]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
