#include "client/failures-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd-util.h"
#include "lib/string-util.h"

int failures_file_init(FailuresFile *f, const char *path) {
        struct stat st;
        int r;

        r = copy_string(&f->path, path);
        if (r < 0)
                return r;
        if (stat(path, &st) < 0)
                return copy_string(&f->target, path);
        f->in_place = !S_ISREG(st.st_mode);
        f->target = realpath(path, NULL);
        return f->target ? 0 : -errno;
}

/* Items hold keys: for their owner only. */
static int open_stream(FailuresFile *f) {
        _cleanup_close_ int fd = -EBADF;

        if (f->in_place)
                fd = open(f->target, O_WRONLY | O_CLOEXEC);
        else {
                if (format_string(&f->temporary, "%s.XXXXXX", f->target) < 0)
                        return -ENOMEM;
                fd = mkostemp(f->temporary, O_CLOEXEC);
        }
        if (fd >= 0)
                f->stream = fdopen(fd, "w");
        if (!f->stream) {
                const int r = -errno;

                if (fd >= 0 && !f->in_place)
                        (void) unlink(f->temporary); /* it is empty */
                free(TAKE_PTR(f->temporary));
                return r;
        }
        fd = -EBADF; /* the stream has it */
        return 0;
}

static int write_stream(FailuresFile *f, const void *data, size_t n) {
        if (f->error < 0)
                return f->error;
        if (n > 0 && fwrite(data, 1, n, f->stream) != n)
                f->error = errno > 0 ? -errno : -EIO;
        return f->error;
}

int failures_file_write(FailuresFile *f, const void *data, size_t n) {
        if (!f->stream && f->error == 0) {
                f->error = open_stream(f);
                (void) write_stream(f, f->header.data, f->header.size); /* f->error tells */
        }
        f->within_line = true;
        return write_stream(f, data, n);
}

int failures_file_end_line(FailuresFile *f) {
        if (!f->within_line)
                return f->error;
        f->within_line = false;
        return write_stream(f, "\n", 1);
}

static int replace(FailuresFile *f, FailuresEnd end) {
        _cleanup_free_ char *backup = NULL;

        if (fflush(f->stream) != 0)
                return -errno;
        if (f->in_place)
                return 0;
        if (fsync(fileno(f->stream)) < 0)
                return -errno;
        if (end == FAILURES_BACK_UP) {
                if (format_string(&backup, "%s~", f->target) < 0)
                        return -ENOMEM;
                if (rename(f->target, backup) < 0 && errno != ENOENT)
                        return -errno;
        }
        if (rename(f->temporary, f->target) < 0)
                return -errno;
        free(TAKE_PTR(f->temporary));
        return 0;
}

int failures_file_finish(FailuresFile *f, FailuresEnd end) {
        if (f->error == 0 && f->stream)
                f->error = replace(f, end);
        else if (f->error == 0 && end == FAILURES_REMOVE && !f->in_place && unlink(f->target) < 0 &&
                 errno != ENOENT)
                f->error = -errno;
        return f->error;
}

void failures_file_done(FailuresFile *f) {
        if (f->stream)
                (void) fclose(f->stream); /* finish has flushed it */
        buffer_done(&f->header);
        free(f->temporary);
        free(f->target);
        free(f->path);
        *f = (FailuresFile){};
}
