use super::*;

/// A tree as Linux 6.18 shows it, cut down to what is read.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.put(
            "proc/meminfo",
            "MemTotal:       16384000 kB\nMemFree:        8192000 kB\nHugePages_Total:       0\n",
        )
        .put("proc/cmdline", "quiet hugepagesz=1G hugepages=1\n")
        .put("proc/sys/kernel/random/boot_id", "4d2c\n")
        .put("proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n")
    }

    fn put(self, path: &str, content: &str) -> Self {
        holdfast_durable::write(&self.0.path().join(path), content.as_bytes(), 0o644).unwrap();
        self
    }

    fn pool(self, dir: &str, kib: u64, total: u64, free: u64) -> Self {
        let at = |name: &str| format!("{dir}/hugepages-{kib}kB/{name}");
        let tree = self
            .put(&at("nr_hugepages"), &format!("{total}\n"))
            .put(&at("free_hugepages"), &format!("{free}\n"))
            .put(&at("surplus_hugepages"), "0\n");
        if kib > 2048 { tree.put(&at("demote_size"), "2048kB\n") } else { tree }
    }

    fn machine_pool(self, kib: u64, total: u64, free: u64, reserved: u64) -> Self {
        let dir = "sys/kernel/mm/hugepages";
        self.pool(dir, kib, total, free)
            .put(&format!("{dir}/hugepages-{kib}kB/resv_hugepages"), &format!("{reserved}\n"))
    }

    fn node(self, id: u32, mib: u64) -> Self {
        let kib = mib << 10;
        let text = format!("Node {id} MemTotal:    {kib} kB\nNode {id} MemFree:     {kib} kB\n");
        self.put(&format!("sys/devices/system/node/node{id}/meminfo"), &text)
    }

    fn have(&self) -> Have {
        observe(&Root::new(self.0.path())).unwrap()
    }
}

#[test]
fn nodes_with_memory_are_seen_with_their_pools() {
    let pools = |id: u32| format!("sys/devices/system/node/node{id}/hugepages");
    let tree = Tree::new()
        .machine_pool(2048, 12, 8, 3)
        .machine_pool(1 << 20, 1, 1, 0)
        .node(0, 8000)
        .node(1, 8000);
    let tree = tree
        .pool(&pools(0), 2048, 12, 8)
        .pool(&pools(0), 1 << 20, 1, 1)
        .pool(&pools(1), 2048, 0, 0)
        .node(2, 0);
    let have = tree.have();
    assert_eq!(
        have.nodes.keys().map(|id| id.0).collect::<Vec<_>>(),
        [0, 1],
        "node 2 has no memory"
    );
    assert_eq!(have.nodes[&NodeId(0)].memory.total, Bytes::mib(8000));
    assert_eq!(have.memory.total, Bytes::kib(16384000));
    let pool = have.pool(NodeId(0), PageSize::M2).unwrap();
    assert_eq!((pool.total, pool.free, pool.surplus, pool.demote_to), (12, 8, 0, None));
    assert_eq!(have.pool(NodeId(0), PageSize::G1).unwrap().demote_to, Some(PageSize::M2));
    assert_eq!(have.reserved[&PageSize::M2], 3);
    assert_eq!(have.arguments.to_string(), "hugepagesz=1G hugepages=1");
    assert_eq!(have.boot_id.as_deref(), Some("4d2c"));
}

#[test]
fn without_numa_the_machine_is_node_0() {
    let have = Tree::new().machine_pool(2048, 4, 4, 0).have();
    assert_eq!(have.nodes.len(), 1);
    assert_eq!(have.pool(NodeId(0), PageSize::M2).unwrap().total, 4);
    assert_eq!(have.nodes[&NodeId(0)].memory, have.memory);
}

#[test]
fn a_size_of_the_processor_that_the_kernel_lacks_is_for_the_next_boot() {
    let flags = "processor\t: 0\nflags\t\t: fpu pse msr pdpe1gb lm\n";
    let have = Tree::new().machine_pool(2048, 0, 0, 0).put("proc/cpuinfo", flags).have();
    assert_eq!(have.boot_only, [PageSize::G1]);
    let without_hugetlb = Tree::new().put("proc/cpuinfo", flags).have();
    assert_eq!(without_hugetlb.boot_only, []);
}

#[test]
fn what_cannot_be_understood_is_named() {
    let of = |tree: &Tree| observe(&Root::new(tree.0.path())).unwrap_err();
    let empty = Tree(tempfile::tempdir().unwrap());
    assert!(
        matches!(of(&empty), ObserveError::Read { path, .. } if path.ends_with("proc/meminfo"))
    );
    let odd = Tree::new()
        .machine_pool(2048, 0, 0, 0)
        .put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "x");
    assert!(
        matches!(of(&odd), ObserveError::Format { path, .. } if path.ends_with("free_hugepages"))
    );
    let odd = Tree::new().put("proc/meminfo", "MemTotal: 5 kB\n");
    assert!(matches!(of(&odd), ObserveError::Format { what: "MemFree", .. }));
}
