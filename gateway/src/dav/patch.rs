//! PROPPATCH: properties that clients set and remove, all of a request or none.

use axum::response::Response;
use fs::tree::Trouble;
use http::StatusCode;

use super::asked::Asked;
use super::find::answer;
use super::locks::Reach;
use super::properties::{ATTRIBUTE, MOST, Outcomes, Resource, dead, is_protected, kept};
use super::xml::{Element, document, read};
use crate::conditions;
use crate::place::refused;
use crate::refusal::{Code, Refusal};

/// One thing that a request wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set(Element),
    Remove(Element),
}

impl Change {
    fn property(&self) -> &Element {
        match self {
            Self::Set(property) | Self::Remove(property) => property,
        }
    }

    fn apply(&self, properties: &mut Vec<Element>) {
        let name = &self.property().name;
        properties.retain(|property| property.name != *name);
        if let Self::Set(property) = self {
            properties.push(property.clone());
        }
    }
}

/// PROPPATCH.
pub(super) async fn patch(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    let changes = changes(body)?;
    let path = &asked.at.path;
    let attr = asked.view.stat(path).await.map_err(|e| refused(&e))?;
    conditions::replaces(&asked.headers, Some(&attr))?;
    asked.unlocked(path, Reach::default())?;
    let (why, outcomes) = if changes.iter().any(|change| is_protected(&change.property().name)) {
        let why = "a property that the tree knows cannot be set; so none of them was";
        let status = |change: &Change| match is_protected(&change.property().name) {
            true => StatusCode::FORBIDDEN,
            false => StatusCode::FAILED_DEPENDENCY,
        };
        (Some(why.to_owned()), outcomes(&changes, status))
    } else {
        match store(asked, &changes).await? {
            None => (None, outcomes(&changes, |_| StatusCode::OK)),
            why => (why, outcomes(&changes, |_| StatusCode::INSUFFICIENT_STORAGE)),
        }
    };
    let resource = Resource { path: path.clone(), attr };
    let mut said = String::new();
    outcomes.write(&resource.address(), why.as_deref(), &mut said);
    Ok(answer(StatusCode::MULTI_STATUS, document("multistatus", &said)))
}

/// Changes the properties. Answers why there is no room for them, if there is none.
async fn store(asked: &Asked, changes: &[Change]) -> Result<Option<String>, Refusal> {
    let path = &asked.at.path;
    let _alone = asked.door.patching.lock().await;
    let mut properties = dead(&asked.view, path).await.map_err(|e| refused(&e))?;
    changes.iter().for_each(|change| change.apply(&mut properties));
    let kept = match storable(&properties) {
        Ok(kept) => kept,
        Err(why) => return Ok(Some(why)),
    };
    let stored = match properties.is_empty() {
        true => asked.view.remove_attribute(path, ATTRIBUTE).await,
        false => asked.view.set_attribute(path, ATTRIBUTE, kept.as_bytes()).await,
    };
    match stored {
        // There was none to be removed.
        Err(e) if properties.is_empty() && e.trouble() == Trouble::NotFound => Ok(None),
        stored => stored.map(|()| None).map_err(|e| refused(&e)),
    }
}

/// Properties as they are kept, which can be read again: else all of them would be lost with the next look.
///
/// # Errors
/// Why they cannot be kept.
fn storable(properties: &[Element]) -> Result<String, String> {
    let kept = kept(properties);
    if kept.len() > MOST {
        let len = kept.len();
        return Err(format!("properties of {len} bytes; {MOST} are possible, so none was set"));
    }
    // Written again, a namespace is declared wherever it is used.
    match read(kept.as_bytes()) {
        Ok(_) => Ok(kept),
        Err(e) => Err(format!("properties that cannot be kept, so none was set: {}", e.message)),
    }
}

fn outcomes(changes: &[Change], status: impl Fn(&Change) -> StatusCode) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for change in changes {
        let name = Element::empty(change.property().name.clone());
        outcomes.add_element(status(change), &name);
    }
    outcomes
}

/// What a request wants, in its order.
pub(super) fn changes(body: &[u8]) -> Result<Vec<Change>, Refusal> {
    let bad = |why: &str| Refusal::new(Code::BadRequest, why);
    let root = read(body)?;
    if !root.name.is("propertyupdate") {
        return Err(bad("the XML of a PROPPATCH is a propertyupdate of DAV:"));
    }
    let mut changes = Vec::new();
    for what in root.elements() {
        let set = what.name.is("set");
        if !set && !what.name.is("remove") {
            continue;
        }
        let properties = what.child("prop").ok_or_else(|| bad("a set or remove without a prop"))?;
        let language = [properties, what, &root].into_iter().find_map(Element::language);
        for property in properties.elements() {
            let mut property = property.clone();
            property.speaks(language);
            changes.push(if set { Change::Set(property) } else { Change::Remove(property) });
        }
    }
    match changes.is_empty() {
        true => Err(bad("a propertyupdate that sets and removes nothing")),
        false => Ok(changes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(inner: &str) -> Result<Vec<Change>, Refusal> {
        let text =
            format!("<D:propertyupdate xmlns:D='DAV:' xmlns='u:x'>{inner}</D:propertyupdate>");
        changes(text.as_bytes())
    }

    #[test]
    fn changes_are_made_in_their_order_and_keep_their_language() {
        let changes = of("<D:set><D:prop xml:lang='de'><a>1</a><b/></D:prop></D:set>\
             <D:remove><D:prop><a/></D:prop></D:remove><D:set><D:prop><a xml:lang='en'>2</a></D:prop></D:set>");
        let mut properties = Vec::new();
        changes.unwrap().iter().for_each(|change| change.apply(&mut properties));
        let names: Vec<_> = properties.iter().map(|one: &Element| &*one.name.local).collect();
        assert_eq!(names, ["b", "a"]);
        let languages: Vec<_> = properties.iter().map(Element::language).collect();
        assert_eq!(languages, [Some("de"), Some("en")]);
        assert_eq!(kept(&properties).matches("<a xmlns=\"u:x\" xml:lang=\"en\">2</a>").count(), 1);
    }

    #[test]
    fn what_could_not_be_read_again_is_not_kept() {
        let with = |count: usize| {
            let attributes: String = (0..count).map(|n| format!(" q:b{n}='c'")).collect();
            let set = format!("<D:set><D:prop><a xmlns:q='u:q'{attributes}/></D:prop></D:set>");
            let properties: Vec<Element> =
                of(&set).unwrap().iter().map(|change| change.property().clone()).collect();
            storable(&properties)
        };
        assert!(with(10).is_ok_and(|kept| read(kept.as_bytes()).is_ok()));
        assert!(with(100).is_err_and(|why| why.contains("none was set")));
    }

    #[test]
    fn what_changes_nothing_is_refused() {
        for inner in ["", "<D:set/>", "<D:set><D:prop/></D:set>", "<other/>"] {
            assert!(of(inner).is_err(), "{inner}");
        }
        assert!(changes(b"<propertyupdate/>").is_err() && changes(b"").is_err());
    }
}
