//! Congestion marks through a tunnel (RFC 6040). DSCP stays inside: what a site calls urgent is
//! no business of the networks between.

/// The two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum Ecn {
    /// The ends do not heed marks.
    #[default]
    NotEct,
    /// They do.
    Ect1,
    /// They do.
    Ect0,
    /// Congestion was met.
    Ce,
}

impl Ecn {
    /// Of a traffic class, or of what was type of service.
    pub(crate) fn of(traffic_class: u8) -> Self {
        match traffic_class & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// The bits.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Ecn::NotEct => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        }
    }
}

/// What the packet inside is to carry on, when the datagram around it came with `outer`; none
/// when it must be dropped: its ends would not heed the mark. RFC 6040 §4.2, figure 4. What goes
/// out is marked outside as inside (§4.1, normal mode).
pub(crate) fn decapsulate(outer: Ecn, inner: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (Ecn::Ect0, _) => Some(Ecn::Ect0),
        (Ecn::Ect1, _) => Some(Ecn::Ect1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_out_as_in_the_rfcs_table() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let outers = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce); 4]),
        ];
        for (inner, row) in table {
            assert_eq!(outers.map(|outer| decapsulate(outer, inner)), row, "{inner:?}");
        }
        for bits in 0..=255 {
            assert_eq!(Ecn::of(bits).bits(), bits & 3);
        }
    }
}
