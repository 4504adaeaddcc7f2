/* loop-disk.h: a small ext4 of our own, in a file, mounted where only this process and its children see it. It goes
 * with the process. Needs root and loop devices: the test is skipped without. */
#pragma once

#include <stddef.h>

/* Makes and mounts it below dir; returns the mount point, the caller's. */
char *loop_disk_mount(const char *dir, size_t mebibytes);

/* As a power cut: nothing that is not on the disk gets there any more, every call fails (EXT4_IOC_SHUTDOWN without a
 * flush of the journal, Linux fs/ext4/ext4.h). All files have to be closed before loop_disk_restart(). */
void loop_disk_cut(const char *mount_point);
void loop_disk_restart(const char *dir, const char *mount_point);
