//! The profiles that are compiled in.

use hw_profiles::{Catalogue, shipped};

#[test]
fn every_shipped_profile_loads_without_a_problem() {
    let catalogue = Catalogue::shipped();
    assert_eq!(catalogue.problems(), []);
    for (name, _) in shipped() {
        assert!(catalogue.get(name).is_some(), "{name}");
    }
}
