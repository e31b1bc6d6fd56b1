//! Frames: gratuitous ARP in both forms, unsolicited neighbour advertisements.
