//! Who is let in, and who is not, to a volume in memory.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use meta::{
    Account, AccountKind, Caller, MetaStore, NewNode, Pass, ROOT, Secret, Session, User, VolumeInfo,
};
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;

use super::folder::is_within;
use super::orders::{Answer, Order, OrderError};
use super::pass::New;
use super::{Access, Credentials, Refused, password, stands_for};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "correct horse";

fn volume() -> Arc<Session> {
    let info = VolumeInfo {
        name: "test".to_owned(),
        id: VolumeId(1),
        cluster: ClusterId::from_slice(&[3; 16]).unwrap(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    };
    meta::in_memory(&info, (0, 0, 0o755))
}

fn ann() -> User {
    User {
        name: "ann".to_owned(),
        password: password::hash(&Secret(PASSWORD.into())),
        uid: 1000,
        gids: vec![1000, 44],
        folder: "/photos".to_owned(),
        write: true,
        disabled: false,
    }
}

/// A volume with folders, and Ann.
async fn with_ann() -> (Arc<Session>, Access) {
    let meta = volume();
    let caller = Caller { uid: 0, gid: 0, umask: 0 };
    let folder = |at, name: &'static str| {
        meta.create(caller, at, name.as_bytes(), 0o755, NewNode::Directory)
    };
    let photos = folder(ROOT, "photos").await.unwrap().ino;
    folder(photos, "may").await.unwrap();
    folder(ROOT, "photos2").await.unwrap();
    let added = Order::Add(Account::User(ann())).obey(&*meta).await;
    assert_eq!(added, Ok(Answer::Done));
    let access = Access::new(meta.clone(), ROOT);
    (meta, access)
}

fn new(folder: &str, expires: Option<u64>) -> New {
    New { user: "ann".to_owned(), folder: folder.to_owned(), write: true, now: 5, expires }
}

fn shown(user: &str, password: &str) -> Credentials {
    Credentials::Password { user: user.to_owned(), password: Secret(password.into()) }
}

async fn add(meta: &Session, pass: Pass) -> Result<Answer, OrderError> {
    Order::Add(Account::Pass(pass)).obey(meta).await
}

#[tokio::test]
async fn a_password_lets_its_user_in_and_nobody_else() {
    let (meta, access) = with_ann().await;
    let visitor = access.who(&shown("ann", PASSWORD), HERE).await.unwrap();
    assert_eq!((visitor.uid, &visitor.gids[..], visitor.write), (1000, &[1000, 44][..], true));
    assert_eq!(visitor.root, meta.lookup(ROOT, b"photos").await.unwrap().ino);
    let nobody = [("ann", "wrong horse"), ("ann", ""), ("bob", PASSWORD), ("", PASSWORD)];
    for (user, password) in nobody {
        let refused = access.who(&shown(user, password), HERE).await;
        assert_eq!(refused, Err(Refused::Wrong), "{user} {password}");
    }
    let longer = "a".repeat(999);
    assert_eq!(access.who(&shown(&longer, PASSWORD), HERE).await, Err(Refused::Wrong));
}

#[tokio::test]
async fn what_is_changed_counts_at_once() {
    let (meta, access) = with_ann().await;
    access.who(&shown("ann", PASSWORD), HERE).await.unwrap();
    let changed = password::hash(&Secret(b"battery staple".to_vec()));
    Order::Password("ann".into(), changed).obey(&*meta).await.unwrap();
    assert_eq!(access.who(&shown("ann", PASSWORD), HERE).await, Err(Refused::Wrong));
    access.who(&shown("ann", "battery staple"), HERE).await.unwrap();
    Order::Disable("ann".into(), true).obey(&*meta).await.unwrap();
    assert_eq!(access.who(&shown("ann", "battery staple"), HERE).await, Err(Refused::Wrong));
    Order::Disable("ann".into(), false).obey(&*meta).await.unwrap();
    access.who(&shown("ann", "battery staple"), HERE).await.unwrap();
    let gone = meta.rmdir(meta.lookup(ROOT, b"photos").await.unwrap().ino, b"may").await;
    gone.unwrap();
    meta.rmdir(ROOT, b"photos").await.unwrap();
    let refused = access.who(&shown("ann", "battery staple"), HERE).await;
    assert_eq!(refused, Err(Refused::NoFolder("/photos".into())));
    Order::Remove(AccountKind::User, "ann".into()).obey(&*meta).await.unwrap();
    assert_eq!(access.who(&shown("ann", "battery staple"), HERE).await, Err(Refused::Wrong));
}

#[tokio::test]
async fn who_fails_again_and_again_has_to_wait_and_who_is_known_has_not() {
    let (_, access) = with_ann().await;
    let there = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
    access.who(&shown("ann", PASSWORD), HERE).await.unwrap();
    for _ in 0..6 {
        assert_eq!(access.who(&shown("ann", "guess"), there).await, Err(Refused::Wrong));
    }
    let slowed = access.who(&shown("ann", "another guess"), there).await;
    assert!(matches!(slowed, Err(Refused::Slow { wait: 1.. })), "{slowed:?}");
    let other = access.who(&shown("bob", "by the same"), there).await;
    assert_eq!(other, Err(Refused::Wrong), "others come from there, too");
    access.who(&shown("ann", PASSWORD), HERE).await.unwrap();
    // Programs whose token has ended go on and on.
    for _ in 0..200 {
        let token = Credentials::Token("ended".to_owned());
        assert_eq!(access.who(&token, HERE).await, Err(Refused::Wrong));
    }
    let fresh = Access::new(access.meta.clone(), ROOT);
    for _ in 0..6 {
        assert_eq!(fresh.who(&shown("ann", "guess"), there).await, Err(Refused::Wrong));
    }
    fresh.who(&shown("ann", PASSWORD), HERE).await.expect("her name was tried from elsewhere");
    let long = "x".repeat(1 << 20);
    assert_eq!(fresh.who(&shown("ann", &long), HERE).await, Err(Refused::Wrong));
}

#[tokio::test]
async fn few_wait_for_their_password_to_be_looked_at() {
    let (_, access) = with_ann().await;
    let _all = access.waiting.try_acquire_many(66).unwrap();
    let refused = access.who(&shown("ann", PASSWORD), HERE).await;
    assert!(matches!(refused, Err(Refused::Slow { .. })), "{refused:?}");
}

#[tokio::test]
async fn by_a_clock_that_is_wrong_no_pass_lets_anybody_in() {
    let (meta, access) = with_ann().await;
    let now = u64::try_from(meta::wall_clock().secs).unwrap();
    for (made, right) in [(now + 3600, true), (now + 3 * 24 * 3600, false)] {
        let (pass, text) = New { now: made, ..new("/photos", Some(made + 9)) }.token();
        add(&meta, pass).await.unwrap();
        let let_in = access.who(&Credentials::Token(text), HERE).await;
        assert_eq!(let_in.is_ok(), right, "{let_in:?}");
    }
}

#[tokio::test]
async fn an_account_sees_what_is_its_own_and_is_shown() {
    let (meta, _) = with_ann().await;
    let photos = meta.lookup(ROOT, b"photos").await.unwrap().ino;
    let may = meta.lookup(photos, b"may").await.unwrap().ino;
    let other = meta.lookup(ROOT, b"photos2").await.unwrap().ino;
    let login = shown("ann", PASSWORD);
    for (shown, seen) in
        [(ROOT, Some(photos)), (photos, Some(photos)), (may, Some(may)), (other, None)]
    {
        let access = Access::new(meta.clone(), shown);
        let found = access.who(&login, HERE).await;
        assert_eq!(found.ok().map(|visitor| visitor.root), seen, "{shown:?}");
    }
}

#[tokio::test]
async fn tokens_let_in_until_they_expire_or_are_revoked() {
    let (meta, access) = with_ann().await;
    let (pass, text) = new("/photos/may", None).token();
    add(&meta, pass.clone()).await.unwrap();
    let token = |text: &str| Credentials::Token(text.to_owned());
    let visitor = access.who(&token(&text), HERE).await.unwrap();
    assert_eq!((visitor.folder.as_str(), visitor.by), ("/photos/may", AccountKind::Token));
    let (old, expired) = new("/photos", Some(77)).token();
    add(&meta, old).await.unwrap();
    let (_, unknown) = new("/photos", None).token();
    for wrong in [&expired, &unknown, &text[..text.len() - 1], "", &pass.id] {
        assert_eq!(access.who(&token(wrong), HERE).await, Err(Refused::Wrong), "{wrong}");
    }
    Order::Disable("ann".into(), true).obey(&*meta).await.unwrap();
    assert_eq!(access.who(&token(&text), HERE).await, Err(Refused::Wrong));
    Order::Disable("ann".into(), false).obey(&*meta).await.unwrap();
    Order::Remove(AccountKind::Token, pass.id).obey(&*meta).await.unwrap();
    assert!(access.who(&token(&text), HERE).await.is_err());
}

#[tokio::test]
async fn links_and_keys_stand_for_their_user() {
    let (meta, access) = with_ann().await;
    let pass = new("/photos/may", None).link();
    let pass = Pass { write: false, ..pass };
    let Answer::Link(text) = add(&meta, pass.clone()).await.unwrap() else { panic!("no link") };
    let link = |text: &str| Credentials::Link(text.to_owned());
    let visitor = access.who(&link(&text), HERE).await.unwrap();
    assert_eq!((visitor.folder.as_str(), visitor.write), ("/photos/may", false));
    let forged = Pass { folder: "/photos".into(), ..pass.clone() };
    meta.remove_account(AccountKind::Link, &pass.id).await.unwrap();
    meta.add_account(&Account::Pass(forged)).await.unwrap();
    assert_eq!(access.who(&link(&text), HERE).await, Err(Refused::LinkEnded), "what was signed");
    Order::Remove(AccountKind::Link, pass.id).obey(&*meta).await.unwrap();
    assert_eq!(access.who(&link(&text), HERE).await, Err(Refused::LinkEnded));

    let key = new("/photos", None).key();
    add(&meta, key.clone()).await.unwrap();
    let (secret, visitor) = access.access_key(&key.id).await.unwrap();
    assert_eq!((secret, visitor.uid), (key.secret, 1000));
    assert_eq!(access.access_key("AKIANOBODY").await.map(drop), Err(Refused::Wrong));
}

#[tokio::test]
async fn orders_that_make_no_sense_say_why() {
    let (meta, _) = with_ann().await;
    let again = Order::Add(Account::User(ann())).obey(&*meta).await;
    assert_eq!(again, Err(OrderError::Exists(AccountKind::User, "ann".into())));
    let nowhere = User { name: "bob".into(), folder: "/nowhere".into(), ..ann() };
    let nowhere = Order::Add(Account::User(nowhere)).obey(&*meta).await;
    assert_eq!(nowhere, Err(OrderError::NoFolder("/nowhere".into())));
    let outside = add(&meta, new("/photos2", None).link()).await;
    let (folder, user, above) = ("/photos2".into(), "ann".into(), "/photos".into());
    assert_eq!(outside, Err(OrderError::Outside { folder, user, above }));
    let stray = Pass { user: "bob".into(), ..new("/", None).key() };
    assert_eq!(add(&meta, stray).await, Err(OrderError::NoUser("bob".into())));
    let removed = Order::Remove(AccountKind::Token, "t".into()).obey(&*meta).await;
    assert_eq!(removed, Err(OrderError::NoPass(AccountKind::Token, "t".into())));
    let listed = Order::List(AccountKind::User).obey(&*meta).await.unwrap();
    let without = User { password: Secret::default(), ..ann() };
    assert_eq!(listed, Answer::Accounts(vec![Account::User(without)]), "no secrets");
}

#[test]
fn a_pass_gives_no_more_than_its_user_has() {
    let user = ann();
    let pass = |folder: &str, write| Pass { write, ..new(folder, Some(9)).link() };
    let decided = |user: &User, pass: &Pass, now| {
        stands_for(user, Some(pass), now).map(|visitor| (visitor.folder, visitor.write))
    };
    let may = pass("/photos/may", true);
    assert_eq!(decided(&user, &may, 8), Some(("/photos/may".to_owned(), true)));
    assert_eq!(decided(&user, &may, 9), None, "it has expired");
    assert!(!decided(&user, &pass("/photos", false), 8).unwrap().1);
    let reader = User { write: false, ..user.clone() };
    assert!(!decided(&reader, &may, 8).unwrap().1);
    for outside in ["/", "/photos2", "/phot", "/other/photos"] {
        assert_eq!(decided(&user, &pass(outside, true), 8), None, "{outside}");
    }
    assert!(is_within("/a", "/") && is_within("/", "/") && !is_within("/", "/a"));
}
