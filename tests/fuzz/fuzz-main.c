/* Replays files, or all files of folders, through a fuzz target, for builds without libFuzzer. TAP
 * output; a broken promise ends the process behind the name of the file. */
#include <dirent.h>
#include <sys/stat.h>

#include "lib/fd-util.h"
#include "tests/fuzz/fuzz.h"

#define INPUT_BYTES_MAX (64U * 1024U * 1024U)

static unsigned n_run;

static int replay_file(const char *path) {
        _cleanup_free_ char *data = NULL;
        size_t n;
        int r;

        printf("# %s\n", path);
        fflush(stdout); /* the name must be out before a crash */
        r = read_file(path, INPUT_BYTES_MAX, &data, &n);
        if (r < 0) {
                printf("not ok %u - %s: %s\n", ++n_run, path, strerror(-r));
                return r;
        }
        (void) LLVMFuzzerTestOneInput((const uint8_t *) data,
                                      n); /* always 0; failing is aborting */
        printf("ok %u - %s\n", ++n_run, path);
        return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
        return strcmp((*a)->d_name, (*b)->d_name);
}

static int replay(const char *path) {
        struct dirent **entries;
        struct stat st;
        int n, r = 0;

        if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
                return replay_file(path);

        n = scandir(path, &entries, NULL, by_name);
        for (int i = 0; i < n; i++) {
                _cleanup_free_ char *file = NULL;

                if (entries[i]->d_name[0] != '.' &&
                    asprintf(&file, "%s/%s", path, entries[i]->d_name) >= 0 &&
                    replay_file(file) < 0)
                        r = -EIO;
                free(entries[i]);
        }
        if (n >= 0)
                free(entries);
        return r;
}

int main(int argc, char **argv) {
        int r = 0;

        for (int i = 1; i < argc; i++)
                if (replay(argv[i]) < 0)
                        r = 1;
        printf("1..%u\n", n_run);
        return r;
}
