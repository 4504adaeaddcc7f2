#include "client/output-buffer.h"

#include <fcntl.h>
#include <signal.h>

#include "tests/support/test.h"

/* Goal: a reader that never catches up gets every byte, and nothing piles up. Method: a pipe of which always less is
 * read than is written, for many times the buffer. */
TEST(a_reader_that_never_catches_up_makes_nothing_grow) {
        OutputBuffer o = {};
        uint8_t written = 0, expected = 0, bytes[4096];
        size_t most = 0, wrong = 0;
        int fds[2];

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        o.fd = fds[1];
        for (unsigned turn = 0; turn < 2000; turn++) {
                ssize_t n;

                while (output_buffer_pending(&o) < OUTPUT_BUFFER_FULL) {
                        for (size_t i = 0; i < 1000; i++)
                                bytes[i] = written++;
                        assert_ok(buffer_append(&o.data, bytes, 1000));
                }
                assert_ok(output_buffer_flush(&o));
                most = MAX(most, o.data.allocated);
                n = read(fds[0], bytes, sizeof(bytes));
                ck_assert_int_gt(n, 0);
                for (ssize_t i = 0; i < n; i++)
                        wrong += bytes[i] != expected++;
        }
        ck_assert_uint_eq(wrong, 0);
        ck_assert_uint_lt(most, 4 * OUTPUT_BUFFER_FULL);
        (void) close(fds[0]);
        ck_assert_int_eq(signal(SIGPIPE, SIG_IGN) == SIG_ERR, 0);
        assert_error(output_buffer_flush(&o), -EPIPE);
        (void) close(fds[1]);
        output_buffer_close(&o);
}
