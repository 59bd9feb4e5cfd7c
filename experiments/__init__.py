"""The study: everything that reads flags, disks and devices. The method itself is in `semjax`."""
