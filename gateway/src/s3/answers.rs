//! What there is one answer to: access is decided by permissions of files, versions are off, and of much that others offer
//! there is nothing. What is not there is said to be not there; nothing is taken that would not be heeded.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::asked::Asked;
use super::document::document;
use super::elements::{self, Seen};
use super::error::{S3Error, S3Result, Wrong};
use super::object;
use super::xml::Xml;

/// What a list of access may be called that says nothing else than is so anyway.
const HEEDED: [&str; 2] = ["private", "bucket-owner-full-control"];
/// Others that AWS knows.
const CANNED: [&str; 6] = [
    "public-read",
    "public-read-write",
    "authenticated-read",
    "bucket-owner-read",
    "aws-exec-read",
    "log-delivery-write",
];

/// Refuses a list of access in a head that would not be heeded.
///
/// # Errors
/// When there is one.
pub(super) fn canned(asked: &Asked) -> S3Result<()> {
    let granted = asked.headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    match asked.header("x-amz-acl") {
        Some(word) if CANNED.contains(&word) => Err(no_lists()),
        Some(word) if !HEEDED.contains(&word) => {
            Err(S3Error::new(Wrong::InvalidArgument, format!("{word} is no list of access")))
        }
        _ if granted => Err(no_lists()),
        _ => Ok(()),
    }
}

fn no_lists() -> S3Error {
    let why = "who may is decided by owner, groups and permissions of files here, and by whose key it is; there are no lists of access";
    S3Error::new(Wrong::AccessControlListNotSupported, why)
}

/// `?acl`, of a bucket or of an object: its owner may all.
///
/// # Errors
/// When it is not there, or is to become another one.
pub(super) async fn access(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    match asked.key.is_empty() {
        true => drop(asked.there().await?),
        false => drop(object::open(asked, &asked.key()?).await?),
    }
    if asked.method == http::Method::PUT {
        canned(asked)?;
        let mut grants = Vec::new();
        if !body.is_empty() {
            elements::read(body, |path, seen| {
                if let (
                    ["AccessControlPolicy", "AccessControlList", "Grant", rest @ ..],
                    Seen::Leaf(text),
                ) = (path, seen)
                    && matches!(rest.last(), Some(&("ID" | "URI" | "EmailAddress" | "Permission")))
                {
                    grants.push(text.to_owned());
                }
                Ok(())
            })?;
        }
        return match grants.iter().any(|word| *word != asked.user && word != "FULL_CONTROL") {
            true => Err(no_lists()),
            false => Ok(StatusCode::OK.into_response()),
        };
    }
    let mut xml = Xml::new("AccessControlPolicy");
    xml.owner("Owner", &asked.user).open("AccessControlList").open("Grant");
    xml.open("Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"");
    xml.text("ID", &asked.user).text("DisplayName", &asked.user).close("Grantee");
    xml.text("Permission", "FULL_CONTROL").close("Grant").close("AccessControlList");
    Ok(document(xml.end("AccessControlPolicy")))
}

/// What of a bucket is asked for, if it is one of these, and what is answered.
///
/// # Errors
/// When there is no such bucket, or nothing like that.
pub(super) async fn of_bucket(asked: &Asked, what: &str, body: &[u8]) -> S3Result<Response> {
    asked.there().await?;
    let empty = |root: &str| Ok(document(Xml::new(root).end(root)));
    let none = |wrong, what: &str| Err(S3Error::new(wrong, format!("the bucket has no {what}")));
    match (asked.method.as_str(), what) {
        ("GET", "location") => empty("LocationConstraint"),
        ("GET", "versioning") => empty("VersioningConfiguration"),
        ("PUT", "versioning") => versioning(body),
        ("GET", "logging") => empty("BucketLoggingStatus"),
        ("GET", "notification") => empty("NotificationConfiguration"),
        ("GET", "accelerate") => empty("AccelerateConfiguration"),
        ("GET", "requestPayment") => {
            let mut xml = Xml::new("RequestPaymentConfiguration");
            xml.text("Payer", "BucketOwner");
            Ok(document(xml.end("RequestPaymentConfiguration")))
        }
        ("GET", "ownershipControls") => {
            let mut xml = Xml::new("OwnershipControls");
            xml.open("Rule").text("ObjectOwnership", "BucketOwnerEnforced").close("Rule");
            Ok(document(xml.end("OwnershipControls")))
        }
        ("GET", "policyStatus") => {
            let mut xml = Xml::new("PolicyStatus");
            xml.text("IsPublic", false);
            Ok(document(xml.end("PolicyStatus")))
        }
        ("GET", "policy") => none(Wrong::NoSuchBucketPolicy, what),
        ("GET", "cors") => none(Wrong::NoSuchCORSConfiguration, what),
        ("GET", "lifecycle") => none(Wrong::NoSuchLifecycleConfiguration, what),
        ("GET", "website") => none(Wrong::NoSuchWebsiteConfiguration, what),
        ("GET", "replication") => none(Wrong::ReplicationConfigurationNotFoundError, what),
        ("GET", "object-lock") => none(Wrong::ObjectLockConfigurationNotFoundError, what),
        ("GET", "publicAccessBlock") => none(Wrong::NoSuchPublicAccessBlockConfiguration, what),
        ("GET", "encryption") => none(Wrong::ServerSideEncryptionConfigurationNotFoundError, what),
        // There is none any more.
        (
            "DELETE",
            "policy" | "cors" | "lifecycle" | "website" | "replication" | "encryption"
            | "publicAccessBlock",
        ) => Ok(StatusCode::NO_CONTENT.into_response()),
        _ => Err(S3Error::not_there(&format!("{} of ?{what}", asked.method))),
    }
}

/// Versions are off, and stay so.
fn versioning(body: &[u8]) -> S3Result<Response> {
    let mut status = String::new();
    elements::read(body, |path, seen| {
        if let (["VersioningConfiguration", "Status"], Seen::Leaf(text)) = (path, seen) {
            status = text.to_owned();
        }
        Ok(())
    })?;
    match status.as_str() {
        "Suspended" => Ok(StatusCode::OK.into_response()),
        "Enabled" => Err(S3Error::not_there("versioning")),
        _ => Err(S3Error::new(Wrong::MalformedXML, "Status is Enabled or Suspended")),
    }
}

/// What of an object is asked for that there is not.
///
/// # Errors
/// Always.
pub(super) fn of_object(asked: &Asked, what: &str) -> S3Result<Response> {
    match what {
        "retention" | "legal-hold" if asked.method == http::Method::GET => {
            let why = "the object has no lock";
            Err(S3Error::new(Wrong::NoSuchObjectLockConfiguration, why))
        }
        "retention" | "legal-hold" => {
            Err(S3Error::new(Wrong::InvalidRequest, "the bucket has no object lock"))
        }
        _ => Err(S3Error::not_there(&format!("{} of ?{what}", asked.method))),
    }
}
