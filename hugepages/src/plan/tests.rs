use super::*;
use crate::fake::Machine;

fn wanted(pools: &[(PageSize, u64)]) -> Want {
    Want { pools: [(NodeId(0), pools.iter().copied().collect())].into(), ..Want::default() }
}

#[test]
fn a_plan_reads_as_sentences() {
    let have = Machine::nodes(1).pool(0, PageSize::G1, 3).have();
    let mount = Mount {
        path: "/dev/hugepages".into(),
        size: PageSize::M2,
        limit: Some(Bytes::gib(1)),
        mode: 0o770,
        uid: 0,
        gid: 0,
    };
    let want = Want { mounts: vec![mount], ..wanted(&[(PageSize::M2, 700), (PageSize::G1, 0)]) };
    let lines: Vec<String> = plan(&want, &have).steps.iter().map(Step::to_string).collect();
    let expected = [
        "split 2 free pages of 1 GiB on node 0 into pages of 2 MiB",
        "set the pool of 1 GiB pages on node 0 from 1 to 0",
        "set the pool of 2 MiB pages on node 0 from 1024 to 700",
        "mount hugetlbfs with 2 MiB pages at /dev/hugepages, at most 1 GiB",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn gigantic_pages_at_run_time_may_need_a_reboot() {
    let have = Machine::nodes(1).have();
    let planned = plan(&wanted(&[(PageSize::G1, 2)]), &have);
    assert_eq!(
        planned.reboot,
        Reboot::Perhaps(KernelArguments::parse("hugepagesz=1G hugepages=2"))
    );
    assert_eq!(plan(&wanted(&[(PageSize::M2, 2)]), &have).reboot, Reboot::No);
}

#[test]
fn surplus_pages_count_as_borrowed() {
    // Ten pages, of which four are surplus in use: six are persistent.
    let mut machine = Machine::nodes(1).pool(0, PageSize::M2, 10).in_use(0, PageSize::M2, 10);
    let surplus = |machine: &mut Machine, pages| {
        if let Some(pool) =
            machine.have.nodes.get_mut(&NodeId(0)).and_then(|n| n.pools.get_mut(&PageSize::M2))
        {
            pool.surplus = pages;
        }
    };
    surplus(&mut machine, 4);
    assert!(plan(&wanted(&[(PageSize::M2, 6)]), &machine.have()).is_nothing());
    let step = plan(&wanted(&[(PageSize::M2, 12)]), &machine.have()).steps.remove(0);
    assert_eq!(
        step.takes(&machine.have()),
        PageSize::M2.times(2),
        "the surplus becomes persistent"
    );
    assert!(matches!(
        plan(&wanted(&[(PageSize::M2, 5)]), &machine.have()).refused[..],
        [Refusal::InUse { held: 10, .. }]
    ));
}

#[test]
fn a_pool_of_nothing_needs_no_support() {
    let mut machine = Machine::nodes(1);
    machine
        .have
        .nodes
        .values_mut()
        .for_each(|node| node.pools.retain(|size, _| *size != PageSize::G1));
    assert!(plan(&wanted(&[(PageSize::G1, 0)]), &machine.have()).is_nothing());
    let refused = plan(&wanted(&[(PageSize::G1, 1)]), &machine.have()).refused;
    assert_eq!(refused, [Refusal::Unsupported { node: NodeId(0), size: PageSize::G1 }]);
}
