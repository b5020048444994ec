//! Doing something as somebody else, in one thread of a test that is root's.

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Does it with these ids and supplementary groups. Other threads stay who they are.
///
/// # Panics
/// When the test is not root's.
pub fn acting<T>((uid, gid, groups): (u32, u32, &[u32]), act: impl FnOnce() -> T) -> T {
    become_somebody(uid, gid, groups);
    let done = act();
    // The saved id stayed root's: that is the way back.
    set_thread_res_uid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
        .expect("the saved id is root's");
    become_somebody(0, 0, &[]);
    done
}

fn become_somebody(uid: u32, gid: u32, groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid, root) = (Uid::from_raw(uid), Gid::from_raw(gid), Uid::from_raw(0));
    let all = set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, root));
    all.expect("root may become anybody");
}
