#include "tests/support/loop-disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/test.h"

#define SHUTDOWN_IOCTL _IOR('X', 125, uint32_t) /* EXT4_IOC_SHUTDOWN */
#define SHUTDOWN_NO_LOG_FLUSH 2U

static char *mounted; /* by this process */

static void unmount_at_exit(void) {
        if (mounted)
                (void) umount2(mounted, MNT_DETACH); /* the temporary folder below it goes next */
}

static int run(const char *program, const char *a, const char *b) {
        _cleanup_free_ char *command = NULL;
        int status;

        ck_assert_int_ge(asprintf(&command, "PATH=$PATH:/sbin:/usr/sbin %s %s %s >&2", program, a, b), 0);
        status = system(command);
        return status >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

char *loop_disk_mount(const char *dir, size_t mebibytes) {
        _cleanup_free_ char *image = NULL;
        _cleanup_close_ int fd = -EBADF;
        char *mount_point;

        if (geteuid() != 0)
                test_skip("a file system of our own needs root");
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                test_skip("no mount namespace here");
        ck_assert_int_ge(asprintf(&image, "%s/disk.img", dir), 0);
        ck_assert_int_ge(asprintf(&mount_point, "%s/disk", dir), 0);
        fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, (off_t) mebibytes << 20), 0);
        ck_assert_int_eq(mkdir(mount_point, 0700), 0);
        if (run("mkfs.ext4 -q -m 0", image, "") != 0)
                test_skip("no mkfs.ext4 here");
        if (run("mount -o loop", image, mount_point) != 0)
                test_skip("no loop device here");
        mounted = strdup(mount_point);
        atexit(unmount_at_exit);
        return mount_point;
}

void loop_disk_cut(const char *mount_point) {
        _cleanup_close_ int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        uint32_t how = SHUTDOWN_NO_LOG_FLUSH;

        ck_assert_int_ge(fd, 0);
        ck_assert_msg(ioctl(fd, SHUTDOWN_IOCTL, &how) == 0, "shutdown of the file system: %m");
}

void loop_disk_restart(const char *dir, const char *mount_point) {
        _cleanup_free_ char *image = NULL;

        ck_assert_int_ge(asprintf(&image, "%s/disk.img", dir), 0);
        ck_assert_msg(umount(mount_point) == 0, "umount: %m");
        ck_assert_int_eq(run("mount -o loop", image, mount_point), 0);
}
