//! Accounts: they are kept, in order, and passes live as long as their users.

use super::{assert_clean, crash, volume, wait};
use crate::account::tests::{pass, user};
use crate::account::{Account, AccountKind, Pass, Secret, User, UserChange};
use crate::rules::name;
use crate::store::{MetaError, MetaStore};
use crate::volume::session::Session;

fn names(meta: &Session, kind: AccountKind, after: Option<&str>, limit: usize) -> Vec<String> {
    let found = wait(meta.accounts(kind, after, limit)).unwrap();
    found.iter().map(|account| account.name().to_owned()).collect()
}

fn add(meta: &Session, account: Account) -> Result<(), MetaError> {
    wait(meta.add_account(&account))
}

#[test]
fn they_are_listed_in_order_and_kept() {
    let (kv, record, meta) = volume(name::hash);
    for name in ["carl", "ann", "bob", "Zoe"] {
        add(&meta, Account::User(user(name))).unwrap();
    }
    add(&meta, Account::Pass(pass(AccountKind::Token, "t1", "bob"))).unwrap();
    wait(meta.sync()).unwrap();
    let meta = crash(&kv, &record, name::hash);
    assert_eq!(names(&meta, AccountKind::User, None, 9), ["Zoe", "ann", "bob", "carl"]);
    assert_eq!(names(&meta, AccountKind::User, Some("ann"), 1), ["bob"]);
    assert_eq!(names(&meta, AccountKind::User, Some("b"), 9), ["bob", "carl"]);
    assert_eq!(names(&meta, AccountKind::User, Some(&"z".repeat(99)), 9), [""; 0]);
    assert_eq!(names(&meta, AccountKind::User, None, 0), [""; 0]);
    assert_eq!(names(&meta, AccountKind::Token, None, 9), ["t1"]);
    let found = wait(meta.account(AccountKind::User, "ann")).unwrap();
    assert_eq!(found, Some(Account::User(user("ann"))));
    for nobody in ["an", "anna", "", &"a".repeat(999)] {
        assert_eq!(wait(meta.account(AccountKind::User, nobody)).unwrap(), None);
    }
    assert_clean(&meta);
}

#[test]
fn one_is_added_once_and_changed_where_it_is() {
    let (_, _, meta) = volume(name::hash);
    let ann = Account::User(user("ann"));
    let disable = UserChange::Disabled(true);
    assert_eq!(wait(meta.change_user("ann", &disable)), Err(MetaError::NotFound));
    assert_eq!(wait(meta.has_users()), Ok(false));
    add(&meta, ann.clone()).unwrap();
    assert_eq!(wait(meta.has_users()), Ok(true));
    assert_eq!(add(&meta, ann), Err(MetaError::Exists));
    wait(meta.change_user("ann", &disable)).unwrap();
    wait(meta.change_user("ann", &UserChange::Password(Secret(b"$new".into())))).unwrap();
    let changed = User { disabled: true, password: Secret(b"$new".into()), ..user("ann") };
    let found = wait(meta.account(AccountKind::User, "ann")).unwrap();
    assert_eq!(found, Some(Account::User(changed)), "one change takes none back");
    let senseless = Account::User(User { gids: vec![], ..user("bob") });
    assert!(matches!(add(&meta, senseless), Err(MetaError::Invalid(_))));
    assert_eq!(names(&meta, AccountKind::User, None, 9), ["ann"]);
}

#[test]
fn passes_go_with_their_user() {
    let (_, _, meta) = volume(name::hash);
    let key = |id: &str, user: &str| Account::Pass(pass(AccountKind::Key, id, user));
    assert_eq!(add(&meta, key("k1", "ann")), Err(MetaError::NotFound));
    for name in ["ann", "annabel"] {
        add(&meta, Account::User(user(name))).unwrap();
    }
    add(&meta, key("k1", "ann")).unwrap();
    add(&meta, key("k2", "annabel")).unwrap();
    add(&meta, Account::Pass(pass(AccountKind::Link, "l1", "ann"))).unwrap();
    wait(meta.remove_account(AccountKind::User, "ann")).unwrap();
    assert_eq!(names(&meta, AccountKind::Key, None, 9), ["k2"]);
    assert_eq!(names(&meta, AccountKind::Link, None, 9), [""; 0]);
    for (kind, name) in [(AccountKind::User, "ann"), (AccountKind::Key, "annabel")] {
        assert_eq!(wait(meta.remove_account(kind, name)), Err(MetaError::NotFound));
    }
    wait(meta.remove_account(AccountKind::Key, "k2")).unwrap();
    assert_eq!(names(&meta, AccountKind::User, None, 9), ["annabel"]);
    assert_clean(&meta);
}

#[test]
fn what_links_are_signed_with_stays_and_shows_that_there_were_users() {
    let (kv, record, meta) = volume(name::hash);
    let [one, other] = [[1; 32], [2; 32]];
    assert_eq!(wait(meta.signing_secret()), Ok(None));
    assert_eq!(wait(meta.has_users()), Ok(false));
    assert_eq!(wait(meta.keep_signing_secret(&one)), Ok(Secret(one.into())));
    wait(meta.sync()).unwrap();
    let meta = crash(&kv, &record, name::hash);
    assert_eq!(wait(meta.keep_signing_secret(&other)), Ok(Secret(one.into())));
    assert_eq!(wait(meta.signing_secret()), Ok(Some(Secret(one.into()))));
    assert_eq!(wait(meta.has_users()), Ok(true));
    assert!(matches!(wait(meta.keep_signing_secret(&[1; 31])), Err(MetaError::Invalid(_))));
    assert_clean(&meta);
}

#[test]
fn a_pass_may_be_narrower_than_its_user() {
    let (_, _, meta) = volume(name::hash);
    add(&meta, Account::User(user("ann"))).unwrap();
    let narrow = Pass { folder: "/photos/2026/may".into(), ..pass(AccountKind::Token, "t", "ann") };
    add(&meta, Account::Pass(narrow.clone())).unwrap();
    let found = wait(meta.account(AccountKind::Token, "t")).unwrap();
    assert_eq!(found, Some(Account::Pass(narrow)));
}
