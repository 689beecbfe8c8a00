//! Registrations: an operator decides, the device says anew what it is.

use super::Write;
use super::metadata::check_labels;
use super::present::unusable;
use crate::fleet::Fleet;
use crate::http::{ApiError, Identity};
use crate::schema::FieldError;
use crate::store::{Shared, Tx};
use crate::trust::DeviceRequest;
use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::{Registration, RegistrationSpec};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Fields that are the device's to write.
const OF_DEVICE: &[&str] =
    &["hostname", "csr", "wireguardPublicKey", "identityClass", "facts", "edge"];

pub(super) fn check(
    write: &Write<'_>,
    fleet: &Fleet,
    tx: &Tx<'_>,
    new: &mut Value,
) -> Result<(), ApiError> {
    let Some(old) = write.old else { return Ok(()) };
    let mut errors = Vec::new();
    let by_operator = matches!(write.caller.identity, Identity::Operator(_));
    for field in super::changed_fields::<RegistrationSpec>(&old.value["spec"], &new["spec"]) {
        let allowed =
            if by_operator { field == "approval" } else { OF_DEVICE.contains(&field.as_str()) };
        if !allowed {
            let who = if by_operator { "an operator" } else { "the device" };
            let message = format!("may not be changed by {who}");
            errors.push(FieldError::forbidden(format!("spec.{field}"), message));
        }
    }
    write.invalid(std::mem::take(&mut errors))?;
    if by_operator {
        let approval = &new["spec"]["approval"];
        let decides = approval != &old.value["spec"]["approval"];
        if decides && new["spec"]["role"] == "RegionalEdge" && write.by_tenant() {
            let message = "only an operator of all tenants decides on edges";
            errors.push(FieldError::forbidden("spec.approval", message));
        }
        errors.extend(check_labels("spec.approval.labels", &approval["labels"]));
        if let Some(site) = approval["site"].as_str().filter(|site| !is_dns_label(site)) {
            let message = format!("Invalid value: {site:?}: must be a DNS label (RFC 1123)");
            errors.push(FieldError::invalid("spec.approval.site", message));
        }
        return write.invalid(errors);
    }
    match DeviceRequest::parse(new["spec"]["csr"].as_str().unwrap_or_default()) {
        Ok(request) if request.device().registration() != old.key.name => {
            errors.push(FieldError::invalid("spec.csr", "Invalid value: is for another key"));
        }
        Ok(_) => {}
        Err(error) => {
            errors.push(FieldError::invalid("spec.csr", format!("Invalid value: {error}")))
        }
    }
    if let Ok(registration) = Registration::deserialize(&*new) {
        let before = old.decode::<Registration>().map(|old| old.spec).unwrap_or_default();
        errors.extend(unusable(&before, &registration.spec, &old.key, fleet, tx));
    }
    write.invalid(errors)?;
    ask_again(old, fleet, tx, new);
    Ok(())
}

/// Replaces what the device says of itself.
pub(super) fn take_over(value: &mut Value, said: &RegistrationSpec) {
    let said = serde_json::to_value(said).unwrap_or(Value::Null);
    for field in OF_DEVICE {
        match said.get(*field) {
            Some(new) => value["spec"][*field] = new.clone(),
            None => {
                if let Some(spec) = value["spec"].as_object_mut() {
                    spec.remove(*field);
                }
            }
        }
    }
}

/// The device asks for a certificate. A new request is always answered by a new one; the same
/// request again, when a third of the life of the certificate at hand is over.
pub(super) fn ask_again(old: &Shared, fleet: &Fleet, tx: &Tx<'_>, new: &mut Value) {
    let young = CertificateDer::from_pem_slice(old.text("/status/certificate").as_bytes())
        .ok()
        .and_then(|der| {
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
        })
        .is_some_and(|end| end.duration_since(tx.now()) > fleet.settings.certificate_life * 2 / 3);
    if !young && let Some(status) = new["status"].as_object_mut() {
        status.remove("certificate");
    }
}
