//! What the site remembers, as it stands in its ConfigMap. Pure.
//!
//! Whoever reads it may be older than who wrote it: what it does not know it passes over. What
//! cannot be read at all is told apart from what is not there, since a site that remembers nothing
//! has nothing to go back to.

use crate::release::model::SiteRecord;
use crate::release::target::Failure;
use holdfast_api::Reason;
use serde_json::{Value, json};

const KEY: &str = "record.json";

/// The part of the ConfigMap that is ours.
pub(super) fn write(record: &SiteRecord) -> Value {
    let text = serde_json::to_string(record).expect("names and texts have a JSON form");
    json!({"data": {KEY: text}})
}

pub(super) fn read(map: &Value) -> Result<SiteRecord, Failure> {
    let unreadable = |why: String| {
        let message = format!("what the site remembers of releases cannot be read: {why}");
        Failure::never(Reason::ReleaseRecordUnreadable, message)
    };
    let text = map["data"][KEY].as_str().ok_or_else(|| unreadable(format!("no {KEY}")))?;
    serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fake::{kept, parsed};
    use crate::release::journal::{Direction, Record};
    use crate::release::model::{Good, Strayed};

    fn record() -> SiteRecord {
        let release = parsed(&kept("a", &[("ConfigMap", "a", "a")]));
        SiteRecord { good: Some(Good::of(&release)), by: "n".into(), ..SiteRecord::default() }
    }

    #[test]
    fn what_is_damaged_is_told_from_what_a_later_version_wrote() {
        let map = write(&record());
        assert_eq!(read(&map), Ok(record()));
        let text = map["data"][KEY].as_str().unwrap();
        for damaged in [json!({}), json!({"data": {KEY: text[..text.len() / 2]}})] {
            let failure = read(&damaged).unwrap_err();
            assert_eq!(failure.reason, Reason::ReleaseRecordUnreadable, "{damaged}");
        }
        let later =
            text.replace("\"forward\"", "\"Sideways\"").replace("\"Forward\"", "\"Sideways\"");
        let later = later.replacen('{', "{\"more\": {\"x\": 1},", 1);
        assert!(later.contains("Sideways"), "{later}");
        let want = SiteRecord { direction: Direction::Back, ..record() };
        assert_eq!(read(&json!({"data": {KEY: later}})), Ok(want));
        let journal: Record = serde_json::from_str(r#"{"strayed": "elsewhere"}"#).unwrap();
        assert_eq!(journal.strayed, Some(Strayed::Site));
    }
}
