//! Properties of every frame, every split and any bytes.
#![allow(clippy::unwrap_used, reason = "a case that is not as expected has to fail")]

mod arbitrary;

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    DecodeError, Decoder, Flag, Frame, InvalidAttribute, Limits, Opaque, PutData, PutResponse,
    StoredMessages, encode_stored_message,
};
use proptest::{collection::vec, prelude::*};

fn written(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

/// Decodes `bytes`, which arrive in pieces that end at these positions.
fn read(decoder: &mut Decoder, bytes: &[u8], ends: &[usize]) -> Result<(Vec<Frame>, usize), DecodeError> {
    let (mut buffer, mut frames, mut fed) = (BytesMut::new(), Vec::new(), 0);
    for &end in ends.iter().chain([&bytes.len()]) {
        let end = end.clamp(fed, bytes.len());
        buffer.extend_from_slice(&bytes[fed..end]);
        fed = end;
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok((frames, buffer.len()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn encoded_frames_decode_to_the_same(frame in arbitrary::frame()) {
        let mut bytes = written(std::slice::from_ref(&frame));
        prop_assert_eq!(bytes.len(), frame.encoded_len());
        let mut parts = BytesMut::new();
        frame.encode_head(&mut parts);
        prop_assert_eq!(parts.len() + frame.body_len(), frame.encoded_len());
        let (first, second) = frame.body_parts();
        parts.extend_from_slice(first);
        parts.extend_from_slice(second);
        prop_assert_eq!(&parts, &bytes);
        prop_assert_eq!(Decoder::new().decode(&mut bytes), Ok(Some(frame)));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn any_split_gives_the_same_frames(
        frames in vec(arbitrary::frame(), 0..8),
        mut ends in vec(0_usize..3000, 0..20),
        cut in 0_usize..60,
    ) {
        ends.sort_unstable();
        let mut bytes = written(&frames);
        let (expected, unused) = read(&mut Decoder::new(), &bytes, &ends).unwrap();
        prop_assert_eq!(&expected, &frames);
        prop_assert_eq!(unused, 0);
        // A truncated stream yields all frames before the cut, and no error.
        bytes.truncate(bytes.len().saturating_sub(cut));
        let (expected, _) = read(&mut Decoder::new(), &bytes, &ends).unwrap();
        prop_assert_eq!(&expected[..], &frames[..expected.len()]);
        prop_assert!(expected.len() < frames.len() || cut == 0 || frames.is_empty());
    }

    #[test]
    fn raw_bytes_equal_the_input(
        frames in vec(arbitrary::frame(), 0..8),
        mut ends in vec(0_usize..3000, 0..20),
        turns in vec(any::<bool>(), 1..8),
    ) {
        ends.sort_unstable();
        let bytes = written(&frames);
        ends.push(bytes.len());
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        let (mut fed, mut start, mut found) = (0, 0, Vec::new());
        // The decoding method may change with each call, also while a frame is incomplete.
        let mut turns = turns.iter().cycle();
        for end in ends {
            let end = end.clamp(fed, bytes.len());
            buffer.extend_from_slice(&bytes[fed..end]);
            fed = end;
            loop {
                let frame = if *turns.next().unwrap() {
                    let Some(raw) = decoder.decode_raw(&mut buffer).unwrap() else { break };
                    prop_assert_eq!(&raw.bytes, &bytes[start..start + raw.bytes.len()]);
                    prop_assert_eq!(raw.bytes.len(), fed - buffer.len() - start);
                    raw.frame
                } else {
                    let Some(frame) = decoder.decode(&mut buffer).unwrap() else { break };
                    frame
                };
                start = fed - buffer.len();
                found.push(frame);
            }
        }
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn data_is_split_into_its_original_parts(
        payload in arbitrary::bytes(),
        attribute in proptest::option::of("\\PC{0,10}"),
        others in any::<i32>(),
    ) {
        let data = PutData::new(payload.clone(), attribute.as_deref());
        // The other bits of a flag are irrelevant.
        let flag = Flag(others & !Flag::ATTRIBUTE.0 | i32::from(attribute.is_some()));
        for data in [data.clone(), PutData::from(data.to_bytes())] {
            let split = data.split(flag).unwrap();
            let text = split.attribute_text();
            prop_assert_eq!(text.as_deref(), attribute.as_deref());
            prop_assert_eq!(&split.payload, &payload);
            prop_assert_eq!(data.split(Flag::EMPTY).unwrap().payload, data.to_bytes());
        }
    }

    #[test]
    fn any_data_is_split_or_refused(bytes in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..20)) {
        let data = PutData::from(Bytes::from(bytes.clone()));
        match data.split(Flag::ATTRIBUTE) {
            Ok(split) => {
                let attribute = split.attribute.unwrap();
                let length = (attribute.len() as u32).to_be_bytes();
                prop_assert_eq!([&length[..], &attribute, &split.payload].concat(), bytes);
            }
            Err(InvalidAttribute::Missing { available }) => prop_assert!(available == bytes.len() && available < 4),
            Err(InvalidAttribute::Length { length, available }) => {
                prop_assert_eq!((length.to_be_bytes(), available), (bytes[..4].try_into().unwrap(), bytes.len() - 4));
                prop_assert!(length < 0 || length as usize > available);
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn responses_in_place_equal_buffered_ones(
        answers in vec(arbitrary::answer(), 0..8),
        mut ends in vec(0_usize..3000, 0..20),
    ) {
        ends.sort_unstable();
        let bytes = written(&answers);
        ends.push(bytes.len());
        let (mut decoder, mut start, mut found) = (Decoder::new(), 0, Vec::new());
        for end in ends {
            let end = end.clamp(start, bytes.len());
            while let Some((answer, used)) = decoder.decode_response_in_place(&bytes[start..end]).unwrap() {
                found.push(Frame::Response(answer.to_response()));
                start += used;
            }
            if let Some(awaited) = decoder.awaited_len() {
                prop_assert!(awaited > end - start && awaited <= bytes.len() - start);
            }
        }
        prop_assert_eq!(found, answers);
        prop_assert_eq!(start, bytes.len());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..300),
            "(put|get|sync|result|value|stats|quit|transaction)( [a-z0-9+-]{0,3}){0,9}(\r\n)?.{0,9}"
                .prop_map(String::into_bytes),
        ],
        mut ends in vec(0_usize..300, 0..6),
    ) {
        ends.sort_unstable();
        let limits = Limits::default().with_max_line(64).with_max_body(128);
        let whole = read(&mut Decoder::with_limits(limits), &bytes, &[]);
        let pieces = read(&mut Decoder::with_limits(limits), &bytes, &ends);
        let kind = |error: &DecodeError| error.kind();
        prop_assert_eq!(whole.as_ref().map_err(kind), pieces.as_ref().map_err(kind));
        if let Err(error) = whole {
            prop_assert!(error.text().chars().count() <= 80);
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn damaged_frames_are_decoded_or_refused(
        frames in vec(arbitrary::frame(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(&frames).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((frames, _)) = read(&mut Decoder::new(), &bytes, &[]) {
            for frame in frames {
                let mut again = written(std::slice::from_ref(&frame));
                prop_assert_eq!(again.len(), frame.encoded_len());
                prop_assert_eq!(Decoder::new().decode(&mut again), Ok(Some(frame)));
            }
        }
    }

    #[test]
    fn stored_messages_are_read_unchanged(
        messages in vec((any::<i64>(), any::<bool>(), arbitrary::bytes()), 0..6),
        cut in 0_usize..40,
    ) {
        let mut body = BytesMut::new();
        let mut ends = vec![0];
        for (id, attribute, payload) in &messages {
            let attribute = attribute.then_some("attr");
            let flag = Flag(attribute.map_or(0, |_| Flag::ATTRIBUTE.0));
            encode_stored_message(&mut body, *id, flag, &PutData::new(payload.clone(), attribute).to_bytes());
            ends.push(body.len());
        }
        body.truncate(body.len().saturating_sub(cut));
        let length = body.len();
        let mut walk = StoredMessages::new(body);
        let mut count = 0;
        for ((message, (id, attribute, payload)), end) in walk.by_ref().zip(&messages).zip(&ends[1..]) {
            let message = message.unwrap();
            prop_assert_eq!((message.id, &message.payload, message.next_offset), (*id, payload, *end));
            prop_assert_eq!(message.attribute.as_deref(), attribute.then_some("attr"));
            count += 1;
        }
        prop_assert_eq!(walk.offset(), ends[count]);
        let tail = walk.truncated();
        prop_assert_eq!(tail.map(|tail| tail.offset), (ends[count] < length).then_some(ends[count]));
    }

    #[test]
    fn any_stored_bytes_are_read_or_refused(bytes in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..200)) {
        let mut walk = StoredMessages::new(Bytes::from(bytes.clone()));
        let corrupt = walk.by_ref().filter(Result::is_err).count();
        prop_assert!(corrupt <= 1);
        prop_assert_eq!(walk.truncated().is_some(), corrupt == 0 && walk.offset() < bytes.len());
    }

    #[test]
    fn equal_data_is_equal_on_the_wire(
        payload in arbitrary::bytes(),
        other in arbitrary::data(),
        attribute in "\\PC{0,10}",
    ) {
        let data = PutData::new(payload, Some(&attribute));
        let raw = PutData::from(data.to_bytes());
        prop_assert_eq!(&data, &raw);
        prop_assert_eq!((data.len(), data.checksum()), (raw.len(), raw.checksum()));
        prop_assert_eq!(data == other, data.to_bytes() == other.to_bytes());
    }

    #[test]
    fn put_responses_are_parsed_unchanged(id in any::<i64>(), partition in any::<i32>(), offset in any::<i64>()) {
        let answer = PutResponse::new(id, partition, offset);
        prop_assert_eq!(PutResponse::parse(&answer.to_body()), Ok(answer));
    }

    #[test]
    fn the_opaque_is_preserved(frame in arbitrary::frame(), opaque in any::<i32>()) {
        let (opaque, set) = match frame {
            Frame::Command(mut command) => {
                command.set_opaque(Opaque(opaque));
                let quit = command.name() == "quit";
                (if quit { Opaque::NONE } else { Opaque(opaque) }, Frame::from(command))
            }
            Frame::Response(mut response) => {
                response.set_opaque(Opaque(opaque));
                (Opaque(opaque), Frame::from(response))
            }
            other => panic!("neither request nor answer: {other:?}"),
        };
        prop_assert_eq!(set.opaque(), opaque);
    }
}
