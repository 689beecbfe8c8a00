//! What is built from what: every choice that shapes the result, and the key made of them.
//!
//! The key names the cache folder. It is made of what is written here and of the Go sources, not
//! of what the mirror has today: a security update of containerd does not throw a build away.
//! What a build really took is in its `built.json`.

use ring::digest::{SHA256, digest};
use std::fmt::Write;

/// The Debian release that has Kubernetes as source with everything it needs.
pub const SUITE: &str = "bookworm";

/// The source package. It is the last one in Debian that has the servers; later ones have only
/// kubectl.
pub const SOURCE: &str = "kubernetes";

/// Its version.
pub const SOURCE_VERSION: &str = "1.20.5+really1.20.2-1.1+deb12u1";

/// The version that the programs tell.
pub const KUBERNETES: &str = "v1.20.2";

/// What compiles it, and tools that a small Debian may lack.
pub const BUILD_PACKAGES: &[&str] = &["golang-1.19-go", "golang-1.19-src", "patch", "xz-utils"];

/// What runs beside it, with the libraries that a small Debian may lack.
pub const RUN_PACKAGES: &[&str] = &[
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "etcd-client",
    "etcd-server",
    "ipset",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libipset13",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libxtables12",
    "runc",
    "socat",
];

/// Without the clouds' own code and without Docker's, which would double the time.
pub const TAGS: &str = "providerless,dockerless";

/// A change to one place in the sources; a file may have several.
pub struct Change {
    /// The file, from the root of the sources.
    pub file: &'static str,
    /// What is there, exactly once.
    pub old: &'static str,
    /// What is put there.
    pub new: &'static str,
    /// Why.
    pub why: &'static str,
}

/// What is changed in the sources.
pub const CHANGES: &[Change] = &[
    Change {
        file: "staging/src/k8s.io/apiserver/pkg/server/signal.go",
        old: "\tclose(onlyOneSignalHandler) // panics when called twice\n",
        new: "",
        why: "several parts in one process each ask for the signals",
    },
    Change {
        file: "pkg/kubelet/status/status_manager.go",
        old: "const syncPeriod = 10 * time.Second\n",
        new: "const syncPeriod = 1 * time.Second\n",
        why: "a deleted pod leaves in a second, as with later versions, not in ten",
    },
    Change {
        file: "pkg/controller/nodeipam/ipam/cidr_allocator.go",
        old: "wait.Poll(10*time.Second, apiserverStartupGracePeriod,",
        new: "wait.PollImmediate(10*time.Second, apiserverStartupGracePeriod,",
        why: "the first look at the nodes is at once; every controller waits for it",
    },
    Change {
        file: "vendor/github.com/modern-go/reflect2/unsafe_link.go",
        old: "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer) *hiter\n",
        new: "func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer, it *hiter)\n",
        why: ITERATOR,
    },
    Change {
        file: "vendor/github.com/modern-go/reflect2/unsafe_link.go",
        old: "\t// rest fields are ignored\n",
        new: HITER_REST,
        why: ITERATOR,
    },
    Change {
        file: "vendor/github.com/modern-go/reflect2/unsafe_map.go",
        old: "\treturn &UnsafeMapIterator{\n\
              \t\thiter:      mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj)),\n",
        new: "\tit := new(hiter)\n\
              \tmapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), it)\n\
              \treturn &UnsafeMapIterator{\n\
              \t\thiter:      it,\n",
        why: ITERATOR,
    },
    Change {
        file: "staging/src/k8s.io/apiserver/pkg/server/genericapiserver.go",
        old: "\topenAPIConfig *openapicommon.Config\n",
        new: "\topenAPIConfig *openapicommon.Config\n\
              \t// SkipOpenAPIInstallation leaves /openapi/v2 to whoever runs this server.\n\
              \tSkipOpenAPIInstallation bool\n",
        why: SCHEMA,
    },
    Change {
        file: "staging/src/k8s.io/apiserver/pkg/server/genericapiserver.go",
        old: "\tif s.openAPIConfig != nil {\n",
        new: "\tif s.openAPIConfig != nil && !s.SkipOpenAPIInstallation {\n",
        why: SCHEMA,
    },
    Change {
        file: "staging/src/k8s.io/kube-aggregator/pkg/apiserver/apiserver.go",
        old: "\tc.GenericConfig.OpenAPIConfig = nil\n",
        new: "",
        why: SCHEMA,
    },
    Change {
        file: "staging/src/k8s.io/kube-aggregator/pkg/apiserver/apiserver.go",
        old: "\ts := &APIAggregator{\n",
        new: "\tgenericServer.SkipOpenAPIInstallation = true\n\
              \ts := &APIAggregator{\n",
        why: SCHEMA,
    },
];

/// Without the schema nobody manages its fields: kubernetes/kubernetes issue 89264, repaired in a
/// later version.
const SCHEMA: &str = "server-side apply of an APIService panicked; its server knew no schema";

/// The sources are older than Go 1.18, whose runtime no longer makes the iterator: it fills the one
/// that the caller brings, and without this change writes through a stray pointer.
const ITERATOR: &str =
    "maps are walked as since Go 1.18; JSON of custom resources crashed the API server";

/// The members of `hiter` in `runtime/map.go` of Go 1.19 after its first two, with every pointer
/// where the garbage collector looks for it.
const HITER_REST: &str = "\
\t_ [6]unsafe.Pointer // t, h, buckets, bptr, overflow, oldoverflow
\t_ uintptr           // startBucket
\t_ [4]uint8          // offset, wrapped, B, i
\t_ [2]uintptr        // bucket, checkBucket
";

/// Our Go sources: where each goes in the tree of Kubernetes, and what is in it.
pub const GO_FILES: &[(&str, &str)] = &[
    ("cmd/holdfast-hyperkube/main.go", include_str!("../go/main.go")),
    ("cmd/holdfast-hyperkube/crictl.go", include_str!("../go/crictl.go")),
    ("cmd/holdfast-pause/main.go", include_str!("../go/pause.go")),
    ("cmd/holdfast-web/main.go", include_str!("../go/web.go")),
];

/// Programs that are compiled, and where their sources are. The first takes nearly all the time.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("hyperkube", "./cmd/holdfast-hyperkube"),
    ("pause", "./cmd/holdfast-pause"),
    ("web", "./cmd/holdfast-web"),
];

/// To be raised when the steps of the build change so that the result does.
const STEPS: u32 = 1;

/// The folder that a build with this recipe goes to: version and 12 hexadecimal digits.
pub fn key() -> String {
    let mut text = format!("{STEPS}\n{SUITE}\n{SOURCE}={SOURCE_VERSION}\n{KUBERNETES}\n{TAGS}\n");
    let mut add = |part: &str| {
        text.push_str(part);
        text.push('\0');
    };
    BUILD_PACKAGES.iter().chain(RUN_PACKAGES).for_each(|package| add(package));
    for change in CHANGES {
        [change.file, change.old, change.new].into_iter().for_each(&mut add);
    }
    for (path, content) in GO_FILES {
        [*path, *content].into_iter().for_each(&mut add);
    }
    for (name, path) in PROGRAMS {
        [*name, *path].into_iter().for_each(&mut add);
    }
    add(std::env::consts::ARCH);
    format!("{KUBERNETES}-{}", &hex(digest(&SHA256, text.as_bytes()).as_ref())[..12])
}

/// Flags for the linker: no symbols, and the version where the programs look for it.
pub fn linker_flags() -> String {
    let mut flags = String::from("-s -w");
    for package in [
        "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
        "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", KUBERNETES),
            ("gitMajor", "1"),
            ("gitMinor", "20"),
            ("gitTreeState", "debian"),
        ] {
            let _infallible = write!(flags, " -X {package}.{name}={value}");
        }
    }
    flags
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_one_folder_and_does_not_change_by_itself() {
        assert_eq!(key(), key());
        assert!(key().starts_with("v1.20.2-"), "{}", key());
        assert!(key().bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)));
    }
}
