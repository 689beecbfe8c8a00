//! Rules.

use super::Kernel;
use crate::error::TalkError;
use crate::model::{Family, Mark, Rule};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage};
use nix::errno::Errno;
use std::net::IpAddr;

pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// `FIB_RULE_INVERT`: the rule is for what does not match.
const INVERT: RuleFlags = RuleFlags::from_bits_retain(2);
/// What the kernel says for "no limit" of the prefix length.
const NO_SUPPRESS: u32 = u32::MAX;

/// Describes `rule`, to add or delete it. A delete request without a mark finds the rule
/// whoever made it; its number is the mark that counts.
pub(super) fn describe(rule: &Rule, mark: Option<Mark>) -> RuleMessage {
    let length = |net: Option<IpNet>| net.map_or(0, |net| net.prefix_len());
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: rule.family.wire(),
        dst_len: length(rule.to),
        src_len: length(rule.from),
        table: u8::try_from(rule.table).unwrap_or(0),
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.extend(rule.from.map(|net| RuleAttribute::Source(net.addr())));
    attributes.extend(rule.to.map(|net| RuleAttribute::Destination(net.addr())));
    if let Some((value, mask)) = rule.fwmark {
        attributes.push(RuleAttribute::FwMark(value));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    attributes.extend(rule.iif.as_ref().map(|link| RuleAttribute::Iifname(link.to_string())));
    attributes.extend(mark.map(|mark| RuleAttribute::Protocol(RouteProtocol::from(mark))));
    message
}

/// Reads an `RTM_NEWRULE`; `None` for rules that the model has no words for.
pub(super) fn read(body: &[u8]) -> Result<Option<Rule>, DecodeError> {
    let message = RuleMessage::parse(body)?;
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return Ok(None),
    };
    if header.action != RuleAction::ToTable || header.flags.contains(INVERT) || header.tos != 0 {
        return Ok(None);
    }
    let mut rule = Rule::new(0, family, header.table.into());
    let (mut mark, mut mask) = (None, None);
    let net = |ip: &IpAddr, length| IpNet::new(*ip, length).ok();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => rule.priority = *value,
            RuleAttribute::Table(value) => rule.table = *value,
            RuleAttribute::Source(ip) => rule.from = net(ip, header.src_len),
            RuleAttribute::Destination(ip) => rule.to = net(ip, header.dst_len),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Iifname(name) => match name.parse() {
                Ok(name) => rule.iif = Some(name),
                Err(_) => return Ok(None),
            },
            RuleAttribute::SuppressPrefixLen(NO_SUPPRESS) | RuleAttribute::L3MDev(false) => {}
            RuleAttribute::Goto(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::SuppressPrefixLen(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::L3MDev(true)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return Ok(None),
            _ => {}
        }
    }
    rule.fwmark = match (mark, mask) {
        (None, None) => None,
        (Some(mark), mask) => Some((mark, mask.unwrap_or(u32::MAX))),
        // The kernel leaves out a mark of zero (net/core/fib_rules.c, fib_nl_fill_rule).
        (None, Some(mask)) => Some((0, mask)),
    };
    Ok(Some(rule))
}

impl Kernel {
    /// All rules that the model can say.
    pub(super) fn dump_rules(&mut self) -> Result<Vec<Rule>, TalkError> {
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut request = RuleMessage::default();
            request.header.family = family.wire();
            let rules = self.route.dump(RTM_GETRULE, &request, Vec::new, |rules, kind, body| {
                if kind == RTM_NEWRULE {
                    let rule = read(body).map_err(|e| TalkError::Unreadable(e.to_string()))?;
                    rules.extend(rule.filter(|rule| rule.family == family));
                }
                Ok(())
            });
            match rules {
                Ok(rules) => all.extend(rules),
                // A kernel without the family has no rules for it.
                Err(error)
                    if matches!(error.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn bytes(message: &RuleMessage) -> Vec<u8> {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            priority: u32, table in 1u32.., ip: IpAddr, length in 1u8..=32, from: bool, to: bool,
            fwmark in prop::option::of((1u32.., 1u32..)), iif: bool,
        ) {
            let net = IpNet::new(ip, length).unwrap();
            let rule = Rule {
                from: from.then_some(net),
                to: to.then_some(net),
                fwmark,
                iif: iif.then(|| "hf-x".parse().unwrap()),
                ..Rule::new(priority, ip.into(), table)
            }.normal();
            prop_assert_eq!(read(&bytes(&describe(&rule, Some(72)))).unwrap(), Some(rule));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
        }
    }

    #[test]
    fn a_mark_of_zero_is_told_by_its_mask_alone() {
        let rule = Rule { fwmark: Some((0, 0x2000)), ..Rule::new(7200, Family::V4, 7200) };
        let mut message = describe(&rule, Some(72));
        message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::FwMark(_)));
        assert_eq!(read(&bytes(&message)).unwrap(), Some(rule));
    }

    #[test]
    fn a_rule_with_more_conditions_is_not_taken_for_a_plain_one() {
        let rule = Rule::new(7250, Family::V4, 7250);
        let mut message = describe(&rule, None);
        message.attributes.push(RuleAttribute::Oifname("eth0".into()));
        assert_eq!(read(&bytes(&message)).unwrap(), None);
        let mut inverted = describe(&rule, None);
        inverted.header.flags = INVERT;
        assert_eq!(read(&bytes(&inverted)).unwrap(), None);
    }
}
