//! What is read of a volume's metadata, to be tried with whatever may be found there: see [`proto::decoders`].

use bytes::Bytes;
use proto::decoders::{Decoder, a_blob, seal_frame, unsealed};
use proto::id::{ClusterId, GroupId, SessionId, VolumeId};
use proto::metad::{hear, listen, said, say};
use proto::rpc::metad::from_client::Say;
use proto::rpc::metad::from_metad::Said;
use proto::rpc::metad::{Ask, Reply};
use proto::scheme::Scheme;

use crate::account::{Account, AccountKind};
use crate::engine::{Batch, Value};
use crate::journal::entry::{self, Entry, Standing};
use crate::key::counters::Counters;
use crate::key::numbers::Numbers;
use crate::key::volume::VolumeRecord;
use crate::key::{self, Key};
use crate::record::dentry;
use crate::record::inode::Inode;
use crate::record::window::Window;
use crate::record::xattr;
use crate::rules::acl::Acl;
use crate::store::{Extent, FileUpdate, Ino, MetaError, Place, Time, VolumeInfo};
use crate::table::chunk::{Block, Builder, FOOTER, Index};
use crate::table::manifest::Manifest;
use crate::table::run::{ChunkRef, Run};
use crate::volume_store::names::{Namer, Role};
use crate::wire::answer::{self, Answer};
use crate::wire::content::ContentOp;
use crate::wire::look::Look;
use crate::wire::op::Op;

/// Those of this crate.
pub const DECODERS: &[Decoder] = &[
    Decoder {
        name: "entry of the journal",
        decode: read_entry,
        example: an_entry,
        seal: |bytes| seal_head(bytes, 76),
    },
    Decoder {
        name: "manifest",
        decode: read_manifest,
        example: a_manifest,
        seal: |bytes| seal_head(bytes, 44),
    },
    Decoder {
        name: "chunk",
        decode: read_chunk,
        example: a_chunk,
        seal: |bytes| seal_chunk(bytes),
    },
    Decoder { name: "block of a chunk", decode: read_block, example: a_block, seal: unsealed },
    Decoder { name: "values", decode: read_values, example: a_value, seal: unsealed },
    Decoder { name: "volume", decode: read_volume, example: a_volume, seal: unsealed },
    Decoder {
        name: "ask of a session",
        decode: read_ask,
        example: an_ask,
        seal: |bytes| seal_frame(bytes),
    },
    Decoder {
        name: "reply of a metad",
        decode: read_reply,
        example: a_reply,
        seal: |bytes| seal_frame(bytes),
    },
];

const VOLUME: VolumeId = VolumeId(9);
const AT: Standing = Standing { epoch: 3, lsn: 40, first: 30, before: 2, snapshot: (2, 20) };

fn namer() -> Namer {
    let scheme = Scheme::copies(3).expect("three copies are possible");
    Namer { volume: VOLUME, epoch: 3, group: GroupId(0), scheme }
}

/// For a head that ends with the checksum of what is before that and behind it.
fn seal_head(bytes: &mut [u8], head: usize) {
    if let Some((head, rest)) = bytes.split_at_mut_checked(head)
        && let Some((covered, crc)) = head.split_last_chunk_mut::<4>()
    {
        *crc = crc32c::crc32c_append(crc32c::crc32c(covered), rest).to_le_bytes();
    }
}

fn changes() -> Batch {
    let value = |n: u64| (!n.is_multiple_of(5)).then(|| Value::from(&[n as u8; 40][..]));
    (0..200).map(|n| (Key::tag(b'I').with(n), value(n))).collect()
}

fn an_entry() -> Vec<u8> {
    entry::encode(VOLUME, "home", AT, &changes(), 1 << 20).remove(0)
}

fn read_entry(bytes: &[u8]) {
    if let Some(id) = namer().name(Role::Entry, AT.lsn, bytes.len()) {
        drop(Entry::decode(id, bytes));
    }
}

fn a_manifest() -> Vec<u8> {
    let chunk = |n: u64| ChunkRef {
        id: namer().name(Role::Chunk, n, 1000).expect("a valid length"),
        crc: n as u32,
        first: Key::tag(b'I').with(2 * n),
        last: Key::tag(b'I').with(2 * n + 1),
    };
    let run = |chunks: std::ops::Range<u64>| Run::new(chunks.map(chunk).collect());
    let runs = [run(0..3), run(5..9)].map(|run| run.expect("chunks in order"));
    Manifest { name: "home".to_owned(), epoch: 3, lsn: 77, runs: runs.into() }.encode(VOLUME)
}

fn read_manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes, VOLUME) {
        assert_eq!(manifest.encode(VOLUME), bytes, "a manifest is written as it is read");
    }
}

fn a_chunk() -> Vec<u8> {
    let mut builder = Builder::new(VOLUME);
    for (key, value) in changes() {
        builder.add(key, value.as_deref());
    }
    builder.finish().expect("there are entries").bytes.to_vec()
}

/// Bytes of index and footer, as the footer says.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let footer = bytes.get(bytes.len().checked_sub(FOOTER)?..)?;
    let end = Index::len_of(footer, VOLUME, bytes.len() as u32).ok()?;
    Some(end as usize)
}

fn seal_chunk(bytes: &mut [u8]) {
    let Some(end) = end_of(bytes) else { return };
    let at = bytes.len() - end;
    if let Some((covered, crc)) = bytes[at..].split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(covered).to_le_bytes();
    }
}

fn read_chunk(bytes: &[u8]) {
    let Some(end) = end_of(bytes) else { return };
    let (crc, len) = (bytes.last_chunk::<4>().map(|crc| u32::from_le_bytes(*crc)), bytes.len());
    let index = Index::parse(&bytes[len - end..], VOLUME, len as u32, crc.unwrap_or(0));
    let Ok(index) = index else { return };
    let _ = index.agrees(bytes);
    for number in 0..index.blocks() {
        let range = index.range(number);
        let block = Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]);
        drop(index.block(number, block));
    }
}

fn a_block() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in changes() {
        crate::table::chunk::put_entry(&mut bytes, &key, value.as_deref());
    }
    bytes
}

fn read_block(bytes: &[u8]) {
    let Ok(block) = Block::parse(Bytes::copy_from_slice(bytes)) else { return };
    for number in 0..block.len() {
        let (key, value) = block.entry(number);
        assert_eq!(block.get(&key), Some(value.map(Value::from)), "what is there is found");
    }
}

fn a_value() -> Vec<u8> {
    let place = Some(Place { blob: a_blob(5000), offset: 70 });
    let (bytes, used) = key::extent::encode(&Extent { offset: 9, len: 100, place });
    bytes[..used].to_vec()
}

fn read_values(bytes: &[u8]) {
    let _ = key::extent::decode(1 << 40, bytes);
    let _ = key::blob::decode(a_blob(1), bytes);
    let _ = Inode::decode(Ino(7), bytes);
    let _ = (Counters::decode(bytes), Numbers::decode(bytes));
    if let Some(blob) = key::blob::unpack(bytes) {
        assert_eq!(key::blob::pack(&blob), bytes, "a blob is written as it is read");
    }
    drop((key::members::decode(bytes), Window::decode(bytes)));
    drop(Acl::parse(bytes));
    for kind in AccountKind::ALL {
        drop(Account::decode(kind, "a", bytes));
    }
    let _ = (dentry::entries(bytes).count(), xattr::entries(bytes).count());
    let Some(key) = Key::from_bytes(bytes) else { return };
    let _ = (key::garbage::parse(&key), key::xattr::parse(&key), key::symlink::parse(&key));
    let _ = key::account::parse(&key);
    let _ = (key::inline::parse(&key), key::reference::parse(&key), key::extent::parse(&key));
    let _ = (key::blob::parse(&key), key::inode::parse(&key), key::orphan::parse(&key));
    let (_, _): (Option<SessionId>, _) = (key::session::parse(&key), key::dentry::parse(&key));
}

fn a_volume() -> Vec<u8> {
    let scheme = Scheme::erasure(4, 2).expect("a valid scheme");
    let cluster = ClusterId::from_slice(&[7; 16]).expect("16 bytes");
    let rules = proxy::VolumeRules::default();
    let info = VolumeInfo { name: "home".to_owned(), id: VOLUME, cluster, scheme, rules };
    VolumeRecord { info, seed: 5, trash_days: 30 }.encode()
}

fn read_volume(bytes: &[u8]) {
    drop(VolumeRecord::decode(bytes));
}

fn an_ask() -> Vec<u8> {
    let extent = Extent { offset: 5, len: 7, place: Some(Place { blob: a_blob(100), offset: 9 }) };
    let file = FileUpdate {
        ino: Ino(3),
        extents: vec![extent],
        size_at_least: Some(12),
        mtime: Some(Time { secs: 1, nanos: 2 }),
    };
    let commit = ContentOp::Commit { blobs: vec![a_blob(100)], inline: None, files: vec![file] };
    let lookup = Look::Lookup(Ino(1), Bytes::from_static(b"name"));
    let ops = [Op::Look(lookup), Op::Content(commit), Op::SetMinSpare(1), Op::Sync];
    let ops = ops.iter().map(Op::to_wire).collect();
    say(7, Say::Ask(Ask { ops, ..Ask::default() })).to_vec()
}

fn read_ask(mut bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let heard = runtime.expect("a runtime").block_on(hear(&mut bytes, true));
    let Ok(Some(heard)) = heard else { return };
    let Say::Ask(ask) = heard.say else { return };
    for op in ask.ops.into_iter().filter_map(|op| Op::from_wire(op).ok()) {
        assert_eq!(Op::from_wire(op.to_wire()), Ok(op), "what was understood is said again");
    }
}

fn a_reply() -> Vec<u8> {
    let names = Answer::Names(vec![b"user.a".to_vec()]);
    let extent = Extent { offset: 5, len: 7, place: Some(Place { blob: a_blob(100), offset: 9 }) };
    let answers = [Ok(names), Ok(Answer::Extents(vec![extent])), Err(MetaError::NotFound)];
    let answers = answers.into_iter().map(answer::to_wire).collect();
    said(7, Said::Reply(Reply { answers, ..Reply::default() })).to_vec()
}

fn read_reply(mut bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let heard = runtime.expect("a runtime").block_on(listen(&mut bytes));
    if let Ok(Some((_, Said::Reply(reply)))) = heard {
        reply.answers.into_iter().for_each(|answer| drop(answer::from_wire(answer)));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_is_found_is_read_or_refused() {
        proto::decoders::hold(super::DECODERS);
    }
}
