#include "daemon/manager.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "daemon/credentials.h"
#include "daemon/credentials-expiry.h"
#include "daemon/credentials-watch.h"
#include "daemon/ipc-server.h"
#include "daemon/log.h"
#include "daemon/notices.h"
#include "daemon/notify.h"
#include "daemon/outbox.h"
#include "daemon/status.h"
#include "daemon/uplink.h"
#include "daemon/watchdog.h"

/* For goodbye to the hub and the last sync, on a slow disk. */
#define STOP_REST_USEC (30 * USEC_PER_SEC)

/* What keeps the daemon from starting or going on. */
#define failed(error, ...) log_event_errno(LOG_ERR, error, MSG_FAILED, __VA_ARGS__)

struct Manager {
        const Config *config;
        sd_event *event;
        sd_event_source *outbox_source, *outbox_timer;
        sd_event_source *signal_sources[3];
        Notices *notices;
        Outbox *outbox;
        Credentials *credentials;
        CredentialsWatch *credentials_watch;
        CredentialsExpiry *credentials_expiry;
        Uplink *uplink;
        IpcServer *ipc;
        Watchdog *watchdog;
        usec_t outbox_deadline_usec; /* what the timer is set to */
        bool stopping;
        bool stuck, disk_slow; /* as logged last */
};

/* News of the outbox. */

static void on_settled(const OutboxSettled *s, void *userdata) {
        Manager *m = userdata;

        if (m->uplink && s->end != OUTBOX_END_CONFIRMED)
                uplink_message_ended(m->uplink, s->seq);
        if (m->ipc)
                ipc_server_settled(m->ipc, s);
}

static void on_deliverable(void *userdata) {
        Manager *m = userdata;

        if (m->uplink)
                uplink_outbox_deliverable(m->uplink);
}

/* With the numbers that such a line is about, as they are now. */
static void on_outbox_line(int priority, const char *message_id, const char *text, void *userdata) {
        Manager *m = userdata;
        char queued[48] = "", used[48] = "", max[48] = "";
        const char *fields[] = { queued, used, max, NULL };
        OutboxStats stats;

        if (m->outbox) {
                outbox_get_stats(m->outbox, &stats);
                (void) snprintf(queued, sizeof(queued), "IOTHUBD_QUEUED=%" PRIu64, stats.queued);
                (void) snprintf(used, sizeof(used), "IOTHUBD_USED_BYTES=%" PRIu64, stats.used_bytes);
                (void) snprintf(max, sizeof(max), "IOTHUBD_LIMIT_BYTES=%" PRIu64, stats.max_bytes);
        }
        log_event(priority, message_id, m->outbox ? fields : NULL, "%s", text);
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
        Manager *m = userdata;

        notices_pass(m->notices, priority, message_id, text);
}

static int process_outbox(Manager *m) {
        int r = outbox_process(m->outbox);

        if (r < 0)
                return failed(r, "Outbox failed: %m");
        return 0;
}

static int on_outbox_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        return process_outbox(userdata);
}

static int on_outbox_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        m->outbox_deadline_usec = USEC_INFINITY;
        return process_outbox(m);
}

/* Before each wait of the loop: whatever was called may have moved the outbox's deadline. */
static int on_outbox_prepare(sd_event_source *source, void *userdata) {
        Manager *m = userdata;
        usec_t deadline = outbox_next_deadline(m->outbox);
        int r;

        if (deadline == m->outbox_deadline_usec)
                return 0;
        m->outbox_deadline_usec = deadline;
        if (deadline == USEC_INFINITY)
                return sd_event_source_set_enabled(m->outbox_timer, SD_EVENT_OFF);
        r = sd_event_source_set_time(m->outbox_timer, deadline);
        return r < 0 ? r : sd_event_source_set_enabled(m->outbox_timer, SD_EVENT_ONESHOT);
}

static int open_outbox(Manager *m) {
        const Config *c = m->config;
        const OutboxOptions options = {
                .max_size = c->outbox.max_size,
                .keep_free = c->outbox.keep_free,
                .segment_size = c->outbox.segment_size,
                .full = c->outbox.full,
                .time_to_live_usec = c->outbox.time_to_live_usec,
                .dead_letter_size = c->outbox.dead_letter_size,
                .n_receipts = c->outbox.receipts,
                .position_interval_usec = c->outbox.position_interval_usec,
                .position_messages = c->outbox.position_messages,
                .threaded = true,
        };
        const OutboxEvents events = {
                .on_settled = on_settled,
                .on_deliverable = on_deliverable,
                .on_notice = on_notice,
                .userdata = m,
        };
        int r;

        r = notices_new(m->event, NOTICES_SETTLE_USEC, on_outbox_line, m, &m->notices);
        if (r < 0)
                return failed(r, "Cannot prepare the log of the outbox: %m");
        r = outbox_open(c->state_directory, &options, &events, &m->outbox);
        if (r == -EBUSY)
                return failed(r, "Another daemon uses the state directory %s", c->state_directory);
        if (r < 0)
                return failed(r, "Cannot open the outbox in %s: %m", c->state_directory);

        r = sd_event_add_io(m->event, &m->outbox_source, outbox_fd(m->outbox), EPOLLIN,
                            on_outbox_ready, m);
        if (r >= 0)
                r = sd_event_add_time(m->event, &m->outbox_timer, CLOCK_BOOTTIME, 0,
                                      10 * USEC_PER_MSEC, on_outbox_timer, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->outbox_timer, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_source_set_prepare(m->outbox_source, on_outbox_prepare);
        if (r < 0)
                return failed(r, "Cannot watch the outbox: %m");
        return 0;
}

/* News of the uplink. */

static void tell_status(Manager *m) {
        OutboxStats outbox;
        UplinkStatus uplink;
        char line[1024];

        outbox_get_stats(m->outbox, &outbox);
        uplink_get_status(m->uplink, &uplink);
        status_to_line(&outbox, &uplink, line, sizeof(line));
        notify_managerf("STATUS=%s", line);
}

static void on_state_changed(void *userdata) {
        Manager *m = userdata;

        if (!m->uplink || !m->ipc)
                return; /* not all is there yet; manager_new() tells the first state */
        credentials_expiry_look(m->credentials_expiry); /* the uplink reads them after a refusal */
        if (!credentials_problem(m->credentials))
                ipc_server_set_topic_prefix_size(m->ipc,
                                                 strlen(credentials_topic_prefix(m->credentials)));
        ipc_server_state_changed(m->ipc);
        tell_status(m);
}

static void on_checkpoint(int error, uint64_t first, uint64_t last, uint64_t n_duplicates,
                          void *userdata) {
        Manager *m = userdata;

        if (error < 0)
                log_warning_errno(error, "Cannot record what was confirmed last, some of it may be "
                                         "sent again: %m");
        (void) sd_event_exit(m->event, 0); /* fails only for a loop that has ended */
}

static void on_stopped(void *userdata) {
        Manager *m = userdata;
        int r;

        if (!m->stopping)
                return;
        r = outbox_checkpoint(m->outbox, on_checkpoint, m);
        if (r < 0)
                on_checkpoint(r, 0, 0, 0, m);
}

/* Returns whether they are others now; the connection then changes over in an orderly way. */
static bool reload_credentials(Manager *m) {
        if (credentials_reload(m->credentials) <= 0) /* a failure was logged, the old ones stay */
                return false;
        log_event(LOG_NOTICE, MSG_RELOADED, NULL, "Credentials have changed, connecting anew");
        uplink_credentials_changed(m->uplink);
        credentials_expiry_look(m->credentials_expiry);
        return true;
}

static bool on_credentials_touched(void *userdata) {
        return reload_credentials(userdata);
}

/* It only saves a signal, so the daemon does without where the kernel has no more watches. */
static void watch_credentials(Manager *m) {
        const char *paths[CREDENTIALS_FILES_MAX];
        size_t n = credentials_files(m->credentials, paths);
        int r;

        if (n == 0)
                return;
        r = credentials_watch_new(m->event, paths, n, on_credentials_touched, m,
                                  &m->credentials_watch);
        if (r < 0)
                log_warning_errno(r, "Cannot watch the files of the credentials, SIGHUP tells of "
                                     "new ones: %m");
}

static int start_uplink(Manager *m) {
        const Config *c = m->config;
        _cleanup_free_ char *memory_file = NULL;
        const CredentialsOptions credentials = {
                .connection_string = c->connection_string,
                .connection_string_file = c->connection_string_file,
                .secondary_connection_string_file = c->secondary_connection_string_file,
                .certificate_file = c->certificate_file,
                .private_key = c->private_key,
                .private_key_passphrase_file = c->private_key_passphrase_file,
                .key_provider = c->key_provider,
                .product_info = c->uplink.product_info,
                .model_id = c->uplink.model_id,
                .token_lifetime_usec = c->uplink.token_lifetime_usec,
        };
        UplinkOptions options = {
                .ca_file = c->ca_file,
                .mqtt_port = c->mqtt_port,
                .window = c->uplink.window,
                .window_bytes = c->uplink.window_bytes,
                .keep_alive_usec = c->uplink.keep_alive_usec,
                .connect_timeout_usec = c->uplink.connect_timeout_usec,
                .ack_timeout_usec = c->uplink.ack_timeout_usec,
                .retry_min_usec = c->uplink.retry_min_usec,
                .retry_max_usec = c->uplink.retry_max_usec,
                .retry_cut_max_usec = c->uplink.retry_cut_max_usec,
                .retry_refused_max_usec = c->uplink.retry_refused_max_usec,
                .clock_wait_usec = c->uplink.clock_wait_usec,
                .adopt = c->outbox.adopt,
        };
        const UplinkEvents events = {
                .on_state_changed = on_state_changed,
                .on_stopped = on_stopped,
                .userdata = m,
        };
        int r;

        r = credentials_new(&credentials, &m->credentials);
        if (r < 0)
                return failed(r, "Cannot read credentials: %m");
        if (asprintf(&memory_file, "%s/uplink", c->state_directory) < 0) {
                memory_file = NULL;
                return failed(-ENOMEM, "Cannot start the uplink: %m");
        }
        options.memory_file = memory_file;
        r = credentials_expiry_new(m->event, m->credentials, &m->credentials_expiry);
        if (r < 0)
                return failed(r, "Cannot watch the end of the certificate: %m");
        r = uplink_new(m->event, m->outbox, m->credentials, &options, &events, &m->uplink);
        if (r >= 0)
                r = uplink_start(m->uplink);
        if (r < 0)
                return failed(r, "Cannot start the uplink: %m");
        watch_credentials(m);
        return 0;
}

/* Local clients. */

/* Under systemd tmpfiles or the socket unit makes it; started by hand nobody does. */
static void make_socket_folder(const char *path) {
        _cleanup_free_ char *folder = strdup(path);
        char *slash = folder ? strrchr(folder, '/') : NULL;

        if (!slash || slash == folder)
                return;
        *slash = 0;
        (void) mkdir(folder, 0755); /* binding tells what is wrong */
}

static int start_ipc(Manager *m) {
        const Config *c = m->config;
        const IpcServerOptions options = {
                .socket = c->socket,
                .socket_group = c->socket_group,
                .socket_mode = c->socket_mode,
                .connections_max = c->ipc.connections_max,
                .connections_per_user_max = c->ipc.connections_per_user_max,
                .buffer_bytes_max = c->ipc.buffer_bytes_max,
                .user_bytes_max = c->ipc.user_bytes_max,
                .user_messages_per_sec = c->ipc.user_messages_per_sec,
                .user_messages_burst = c->ipc.user_messages_burst,
                .started_realtime_usec = now_usec(CLOCK_REALTIME),
        };
        int r;

        if (sd_listen_fds(/* unset_environment= */ 0) == 0)
                make_socket_folder(c->socket);
        r = ipc_server_new(m->event, &options, m->outbox, m->uplink, &m->ipc);
        if (r >= 0)
                r = ipc_server_listen(m->ipc);
        if (r == -ESRCH)
                return failed(r, "Cannot listen on %s: there is no group %s", c->socket,
                              strempty(c->socket_group));
        if (r == -ENOTSOCK)
                return failed(r, "What the service manager handed over is no listening Unix stream "
                                 "socket");
        if (r == -EEXIST)
                return failed(r, "Cannot listen on %s: a file that is no socket is there",
                              c->socket);
        if (r < 0)
                return failed(r, "Cannot listen on %s: %m", c->socket);
        return 0;
}

/* Signals and the watchdog. */

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si,
                        void *userdata) {
        Manager *m = userdata;

        if (m->stopping) {
                log_notice("Second signal, stopping at once");
                return sd_event_exit(m->event, 0);
        }
        m->stopping = true;
        /* With the time that it may take, so that the manager waits where stop_timeout is longer
         * than its own limit. */
        notify_managerf("STOPPING=1\nSTATUS=Stopping\nEXTEND_TIMEOUT_USEC=%" PRIu64,
                        usec_add(m->config->stop_timeout_usec, STOP_REST_USEC));
        log_event(LOG_NOTICE, MSG_STOPPING, NULL, "Stopping");
        ipc_server_shut_down(m->ipc);
        uplink_stop(m->uplink, m->config->stop_timeout_usec);
        return 0;
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Manager *m = userdata;
        UplinkStatus status;

        notify_managerf("RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec(CLOCK_MONOTONIC));
        uplink_get_status(m->uplink, &status);
        /* Whoever asks for it has mended something, also where it was not the credentials. */
        if (!reload_credentials(m) &&
            (status.state == UPLINK_STATE_BACKOFF || status.state == UPLINK_STATE_HOLDING ||
             status.state == UPLINK_STATE_CLOCK))
                uplink_credentials_changed(m->uplink);
        notify_manager("READY=1");
        return 0;
}

static int watch_signals(Manager *m) {
        static const struct {
                int signal;
                sd_event_signal_handler_t handler;
        } signals[] = { { SIGTERM, on_terminate },
                        { SIGINT, on_terminate },
                        { SIGHUP, on_reload } };

        for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
                int r = sd_event_add_signal(m->event, &m->signal_sources[i], signals[i].signal,
                                            signals[i].handler, m);

                if (r < 0)
                        return failed(r, "Cannot watch signals: %m");
        }
        return 0;
}

/* The disk's threads are inside the kernel as long as they are at work: a restart would wait for
 * the same disk. */
static void watch_disk(Manager *m, usec_t now) {
        OutboxStats outbox;
        bool slow;

        outbox_get_stats(m->outbox, &outbox);
        slow = watchdog_is_stuck(outbox.busy_since_boottime_usec, now);
        if (slow && !m->disk_slow)
                log_event(LOG_WARNING, MSG_DISK_SLOW, NULL,
                          "The disk has been at one job for a minute; new messages may wait for "
                          "it, nothing is lost");
        else if (!slow && m->disk_slow)
                log_event(LOG_NOTICE, MSG_DISK_DONE, NULL, "The disk has done what it was at");
        if (slow || m->disk_slow)
                tell_status(m);
        m->disk_slow = slow;
}

static bool is_alive(void *userdata) {
        Manager *m = userdata;
        usec_t now = now_usec(CLOCK_BOOTTIME);
        UplinkStatus uplink;
        bool stuck;

        watch_disk(m, now);
        uplink_get_status(m->uplink, &uplink);
        stuck = watchdog_is_stuck(uplink.busy_since_boottime_usec, now);
        if (stuck && !m->stuck)
                log_event(LOG_ERR, MSG_STUCK, NULL,
                          "The network thread has had work for a minute and taken none, no longer "
                          "feeding the watchdog");
        m->stuck = stuck;
        return !stuck;
}

static int manager_start(Manager *m) {
        OutboxStats stats;
        int r;

        r = sd_event_new(&m->event);
        if (r < 0)
                return failed(r, "Cannot create the event loop: %m");
        r = watch_signals(m);
        if (r < 0)
                return r;
        r = open_outbox(m);
        if (r < 0)
                return r;
        r = start_uplink(m);
        if (r < 0)
                return r;
        r = start_ipc(m);
        if (r < 0)
                return r;
        r = watchdog_new(m->event, is_alive, m, &m->watchdog);
        if (r < 0)
                return failed(r, "Cannot set up the watchdog: %m");

        outbox_get_stats(m->outbox, &stats);
        log_event(LOG_NOTICE, MSG_STARTED, NULL, "iothubd %s is ready, %" PRIu64 " messages queued",
                  PROJECT_VERSION, stats.queued);
        notify_manager("READY=1");
        on_state_changed(m);
        return 0;
}

int manager_new(const Config *config, Manager **ret) {
        _cleanup_(manager_freep) Manager *m = NULL;
        int r;

        m = malloc(sizeof(*m));
        if (!m)
                return -ENOMEM;
        *m = (Manager){ .config = config, .outbox_deadline_usec = USEC_INFINITY };
        r = manager_start(m);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

Manager *manager_free(Manager *m) {
        if (!m)
                return NULL;
        m->watchdog = watchdog_free(m->watchdog);
        m->ipc = ipc_server_free(m->ipc);
        m->credentials_watch = credentials_watch_free(m->credentials_watch);
        m->credentials_expiry = credentials_expiry_free(m->credentials_expiry);
        m->uplink = uplink_free(m->uplink);
        m->credentials = credentials_free(m->credentials);
        sd_event_source_disable_unref(m->outbox_source);
        sd_event_source_disable_unref(m->outbox_timer);
        m->outbox = outbox_free(m->outbox);
        m->notices = notices_free(m->notices);
        for (size_t i = 0; i < ELEMENTSOF(m->signal_sources); i++)
                sd_event_source_disable_unref(m->signal_sources[i]);
        sd_event_unref(m->event);
        free(m);
        return NULL;
}

int manager_run(Manager *m) {
        int r = sd_event_loop(m->event);

        if (r < 0)
                return failed(r, "Event loop failed: %m");
        return 0;
}
