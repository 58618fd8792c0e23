//! One sequential look at a segment, resynchronising at every sector. Pure: bytes in, findings out.
//!
//! 1. At a sector, try to read a frame header that belongs exactly here.
//! 2. If there is none, go on at the next sector. Runs of such sectors become one finding.
//! 3. If there is one, wait until the whole frame is in the window, check its payload, report it.
//!    After a good frame go on behind it. After a bad one go on at the *next sector*: a damaged
//!    frame hides nothing that lies in what it claims to cover.
//!
//! The scanner judges a frame by itself only. Whether it is left over from the segment's last use
//! (its epoch is not the segment's newest), void, or a copy, is for [`super::recovery`] to say.

use wire::{Header, Incarnation, Op};

use super::layout::{
    Entries, FRAME_HEADER_SIZE, FrameFault, FrameHeader, FrameKind, SECTOR, SegmentEpoch,
};

/// What was found at an offset of the file.
#[expect(clippy::large_enum_variant, reason = "made, looked at and dropped on the stack")]
pub(crate) enum Finding<'a> {
    /// A segment's header sector.
    Segment { epoch: SegmentEpoch },
    /// A frame whose prepare header is good; `fault` says what is wrong with the body.
    Prepare { epoch: SegmentEpoch, length: u32, header: Header, fault: Option<FrameFault> },
    /// A marker.
    Marker { epoch: SegmentEpoch, commit: Op, entries: Entries<'a> },
    /// A part of the index of a sealed segment.
    Index { epoch: SegmentEpoch, entries: Entries<'a> },
    /// A frame header that cannot be used, or whose payload cannot.
    Bad { fault: FrameFault },
    /// Sectors in which no frame begins. `blank` if all of them are zero.
    Gap { length: u64, blank: bool },
}

/// The state of the scan of one segment.
pub(crate) struct SegmentScanner {
    incarnation: Incarnation,
    /// In the file: where the window that is fed next begins.
    cursor: u64,
    end: u64,
    gap_start: u64,
    gap_blank: bool,
}

impl SegmentScanner {
    pub(crate) fn new(incarnation: Incarnation, start: u64, size: u64) -> SegmentScanner {
        SegmentScanner {
            incarnation,
            cursor: start,
            end: start + size,
            gap_start: start,
            gap_blank: true,
        }
    }

    /// Looks at `window`, which begins at the cursor; returns how many bytes are done with. The
    /// rest must be fed again, with more behind it. Frames longer than `frame_max` do not exist.
    pub(crate) fn feed(
        &mut self,
        window: &[u8],
        frame_max: usize,
        report: &mut impl FnMut(u64, Finding<'_>),
    ) -> usize {
        let mut done = 0;
        while window.len() - done >= SECTOR {
            let Some(step) = self.step(&window[done..], frame_max, report) else { break };
            done += step;
            self.cursor += step as u64;
        }
        assert!(self.cursor <= self.end, "a scan stays within its segment");
        done
    }

    /// Reports what is still open when everything was fed.
    pub(crate) fn finish(mut self, report: &mut impl FnMut(u64, Finding<'_>)) {
        assert!(self.cursor == self.end, "a segment is scanned to its end");
        self.close_gap(report);
    }

    fn close_gap(&mut self, report: &mut impl FnMut(u64, Finding<'_>)) {
        let length = self.cursor - self.gap_start;
        if length > 0 {
            report(self.gap_start, Finding::Gap { length, blank: self.gap_blank });
        }
    }

    /// One sector or one frame; `None` when the window ends within a frame.
    fn step(
        &mut self,
        bytes: &[u8],
        frame_max: usize,
        report: &mut impl FnMut(u64, Finding<'_>),
    ) -> Option<usize> {
        let frame = match FrameHeader::verify(bytes, self.incarnation, self.cursor) {
            Ok(frame) => frame,
            Err(fault) => {
                if fault != FrameFault::Magic {
                    report(self.cursor, Finding::Bad { fault });
                }
                self.gap_blank &= bytes[..SECTOR].iter().all(|&byte| byte == 0);
                return Some(SECTOR);
            }
        };
        let length = frame.length();
        let room = usize::try_from(self.end - self.cursor).unwrap_or(usize::MAX);
        if length > frame_max.min(room) {
            report(self.cursor, Finding::Bad { fault: FrameFault::Field("length") });
            self.gap_blank = false;
            return Some(SECTOR);
        }
        if length > bytes.len() {
            return None;
        }
        let bytes = &bytes[..length];
        assert!(length >= FRAME_HEADER_SIZE + frame.payload_size());
        let good = self.report_frame(frame, bytes, report);
        if !good {
            return Some(SECTOR);
        }
        self.gap_start = self.cursor + length as u64;
        self.gap_blank = true;
        Some(length)
    }

    fn report_frame(
        &mut self,
        frame: &FrameHeader,
        bytes: &[u8],
        report: &mut impl FnMut(u64, Finding<'_>),
    ) -> bool {
        let epoch = frame.epoch();
        let finding = match frame.kind() {
            FrameKind::Segment => Finding::Segment { epoch },
            FrameKind::Prepare => {
                let length = u32::try_from(bytes.len()).expect("a frame fits its segment");
                match frame.verify_prepare(bytes) {
                    (Some(header), body) => {
                        Finding::Prepare { epoch, length, header, fault: body.err() }
                    }
                    (None, Err(fault)) => Finding::Bad { fault },
                    (None, Ok(())) => unreachable!("a body is checked against a header"),
                }
            }
            kind => match frame.verify_entries(bytes) {
                Ok(entries) if kind == FrameKind::Marker => {
                    Finding::Marker { epoch, commit: frame.commit(), entries }
                }
                Ok(entries) => Finding::Index { epoch, entries },
                Err(fault) => Finding::Bad { fault },
            },
        };
        let good =
            !matches!(finding, Finding::Bad { .. } | Finding::Prepare { fault: Some(_), .. });
        if good {
            self.close_gap(report);
        } else {
            self.gap_blank = false;
        }
        report(self.cursor, finding);
        good
    }
}
