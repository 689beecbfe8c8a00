//! Huge pages on the kernel command line.
//!
//! As in the kernel's admin-guide/kernel-parameters: `hugepages=` belongs to the `hugepagesz=`
//! before it, or to `default_hugepagesz=` (2 MiB when not given) at the front; its value is a
//! number for the whole machine or a list `node:number,…` (Linux 5.16 and later). Reading is
//! lenient, since the line is shared with everyone; what is not understood counts as not said.

use crate::model::{Have, NodeId, PageSize, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Pages asked for at boot, per size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelArguments {
    sizes: BTreeMap<PageSize, Boot>,
}

/// Pages of one size asked for at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Boot {
    Machine(u64),
    Nodes(BTreeMap<NodeId, u64>),
}

impl KernelArguments {
    /// Reads the pages out of a command line. The last mention of a size counts.
    pub fn parse(line: &str) -> Self {
        let mut sizes = BTreeMap::new();
        let words = || line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        let mut size = words()
            .find(|(key, _)| *key == "default_hugepagesz")
            .map_or(Some(PageSize::M2), |(_, value)| parse_size(value));
        for (key, value) in words() {
            match (key, size) {
                ("hugepagesz", _) => size = parse_size(value),
                ("hugepages", Some(size)) => {
                    if let Some(boot) = parse_amount(value) {
                        sizes.insert(size, boot);
                    }
                }
                _ => {}
            }
        }
        KernelArguments { sizes }
    }

    /// What the command line must say so that `want` is there after a boot, for these sizes
    /// alone: `hugepagesz=1G hugepages=4`, or per node on a machine with several nodes.
    pub fn asking_for(want: &Want, have: &Have, sizes: &BTreeSet<PageSize>) -> Self {
        let boot_of = |size: PageSize| {
            let nodes: BTreeMap<NodeId, u64> = want
                .pools
                .iter()
                .filter_map(|(node, pools)| pools.get(&size).map(|pages| (*node, *pages)))
                .filter(|(_, pages)| *pages > 0)
                .collect();
            if have.nodes.len() > 1 {
                Boot::Nodes(nodes)
            } else {
                Boot::Machine(nodes.values().sum())
            }
        };
        KernelArguments { sizes: sizes.iter().map(|size| (*size, boot_of(*size))).collect() }
    }

    /// Whether the kernel was already asked for at least these pages at boot, so that asking
    /// again would not help. A number for the whole machine is spread evenly over the nodes by
    /// the kernel; it is compared with the sum.
    pub fn covers(&self, want: &Want, size: PageSize) -> bool {
        let wanted = |pools: &BTreeMap<PageSize, u64>| pools.get(&size).copied().unwrap_or(0);
        match self.sizes.get(&size) {
            None => false,
            Some(Boot::Machine(pages)) => *pages >= want.pools.values().map(wanted).sum(),
            Some(Boot::Nodes(nodes)) => want
                .pools
                .iter()
                .all(|(node, pools)| nodes.get(node).copied().unwrap_or(0) >= wanted(pools)),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }
}

impl fmt::Display for KernelArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (size, boot)) in self.sizes.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}hugepagesz={} hugepages=", render_size(*size))?;
            match boot {
                Boot::Machine(pages) => write!(f, "{pages}")?,
                Boot::Nodes(nodes) => {
                    let list: Vec<String> =
                        nodes.iter().map(|(node, pages)| format!("{}:{pages}", node.0)).collect();
                    f.write_str(&list.join(","))?;
                }
            }
        }
        Ok(())
    }
}

/// A size as memparse() of the kernel writes it: `1G`, `2M`, `64K`.
pub(crate) fn render_size(size: PageSize) -> String {
    match size.kib() {
        kib if kib >= 1 << 20 => format!("{}G", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}M", kib >> 10),
        kib => format!("{kib}K"),
    }
}

/// A size as memparse() of the kernel reads it, to KiB.
pub(crate) fn parse_size(text: &str) -> Option<PageSize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 0),
        b'M' | b'm' => (&text[..text.len() - 1], 10),
        b'G' | b'g' => (&text[..text.len() - 1], 20),
        _ => return PageSize::try_from(text.parse::<u64>().ok()? >> 10).ok(),
    };
    PageSize::try_from(digits.parse::<u64>().ok()?.checked_mul(1 << shift)?).ok()
}

fn parse_amount(value: &str) -> Option<Boot> {
    if !value.contains(':') {
        return value.parse().ok().map(Boot::Machine);
    }
    let pair = |text: &str| {
        let (node, pages) = text.split_once(':')?;
        Some((NodeId(node.parse().ok()?), pages.parse().ok()?))
    };
    value.split(',').map(pair).collect::<Option<_>>().map(Boot::Nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(pages: &[(u32, u64)]) -> Want {
        let pools = pages.iter().map(|(n, p)| (NodeId(*n), BTreeMap::from([(PageSize::G1, *p)])));
        Want { pools: pools.collect(), ..Want::default() }
    }

    fn machine(nodes: u32) -> Have {
        Have {
            nodes: (0..nodes).map(|n| (NodeId(n), Default::default())).collect(),
            ..Have::default()
        }
    }

    #[test]
    fn arguments_are_written_as_the_kernel_reads_them() {
        let sizes = BTreeSet::from([PageSize::G1]);
        let one = KernelArguments::asking_for(&want(&[(0, 4)]), &machine(1), &sizes);
        assert_eq!(one.to_string(), "hugepagesz=1G hugepages=4");
        let two = KernelArguments::asking_for(&want(&[(0, 2), (1, 2)]), &machine(2), &sizes);
        assert_eq!(two.to_string(), "hugepagesz=1G hugepages=0:2,1:2");
        assert_eq!(KernelArguments::parse(&two.to_string()), two);
    }

    #[test]
    fn hugepages_belongs_to_the_size_before_it() {
        let line = "quiet default_hugepagesz=1G hugepages=3 hugepagesz=2M hugepages=0:8,1:9 root=/dev/sda1";
        let args = KernelArguments::parse(line);
        assert_eq!(args.to_string(), "hugepagesz=2M hugepages=0:8,1:9 hugepagesz=1G hugepages=3");
        assert!(args.covers(&want(&[(0, 1), (1, 2)]), PageSize::G1));
        assert!(!args.covers(&want(&[(0, 4)]), PageSize::G1));
        assert!(!KernelArguments::parse("hugepages=9").covers(&want(&[(0, 1)]), PageSize::G1));
        assert!(KernelArguments::parse("hugepagesz=7G hugepages=oops hugepages").is_empty());
    }
}
