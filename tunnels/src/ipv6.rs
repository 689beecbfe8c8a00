//! What is told of routes over IPv6 on a machine where that is off.

use ipnet::IpNet;

/// In words, when there are any.
pub fn told<'a>(mut left_out: impl Iterator<Item = &'a IpNet>) -> Option<String> {
    let first = left_out.next()?;
    let more = match left_out.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("IPv6 is off here, and no way leads to {first}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_named_and_others_are_counted() {
        let all: Vec<IpNet> =
            ["fd00:1::/48", "fd00:2::/48", "::/0"].iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(told([].into_iter()), None);
        let text = |n| told(all[..n].iter()).unwrap();
        assert!(text(1).ends_with(" leads to fd00:1::/48"), "{}", text(1));
        assert!(text(3).ends_with(" leads to fd00:1::/48 and 2 more"), "{}", text(3));
    }
}
