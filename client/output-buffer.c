#include "client/output-buffer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

void output_buffer_open(OutputBuffer *o) {
        struct stat st;
        int fd;

        o->fd = STDOUT_FILENO;
        if (fstat(STDOUT_FILENO, &st) < 0)
                return; /* writing will tell */
        o->is_socket = S_ISSOCK(st.st_mode);
        if (!S_ISFIFO(st.st_mode) && !(S_ISCHR(st.st_mode) && isatty(STDOUT_FILENO)))
                return;
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return;
        o->fd = fd;
        o->own_fd = true;
}

void output_buffer_close(OutputBuffer *o) {
        if (o->own_fd)
                (void) close(o->fd); /* flushing has told */
        buffer_done(&o->data);
        *o = (OutputBuffer){};
}

static ssize_t write_once(const OutputBuffer *o) {
        const uint8_t *from = o->data.data + o->n_written;

        if (o->is_socket)
                return send(o->fd, from, output_buffer_pending(o), MSG_DONTWAIT | MSG_NOSIGNAL);
        return write(o->fd, from, output_buffer_pending(o));
}

/* A reader that never catches up must not make the part that it has read grow. Moved no more often
 * than as much as is moved was read. */
static void forget_written(OutputBuffer *o) {
        if (o->n_written < output_buffer_pending(o))
                return;
        buffer_consume(&o->data, o->n_written);
        o->n_written = 0;
}

int output_buffer_flush(OutputBuffer *o) {
        while (output_buffer_pending(o) > 0) {
                ssize_t n = write_once(o);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN) {
                        forget_written(o);
                        return 0;
                }
                if (n < 0)
                        return -errno;
                o->n_written += (size_t) n;
        }
        o->n_written = 0;
        if (o->data.allocated > 4 * OUTPUT_BUFFER_FULL) /* gives back what one huge event took */
                buffer_consume(&o->data, o->data.size);
        else
                o->data.size = 0;
        return 0;
}
