#include "emulator/hub-tls.h"

#include "lib/macro.h"

DEFINE_CLEANUP(SSL_CTX *, SSL_CTX_free);

static int accept_any(int ok, X509_STORE_CTX *store) {
        return 1; /* the thumbprint decides, at CONNECT */
}

static int begin(bool ask_certificate, SSL_CTX **ret) {
        _cleanup_(SSL_CTX_freep) SSL_CTX *tls = SSL_CTX_new(TLS_server_method());

        if (!tls)
                return -ENOMEM;
        if (SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1)
                return -EINVAL;
        SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_read_ahead(tls, 1); /* whole records in one read */
        /* No resumption: each connection proves its certificate anew. */
        SSL_CTX_set_options(tls, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
        (void) SSL_CTX_set_num_tickets(tls, 0); /* cannot fail */
        if (ask_certificate)
                SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, accept_any);
        *ret = TAKE_PTR(tls);
        return 0;
}

int hub_tls_new(const char *certificate_file, const char *key_file, bool ask_certificate,
                SSL_CTX **ret) {
        _cleanup_(SSL_CTX_freep) SSL_CTX *tls = NULL;
        int r;

        r = begin(ask_certificate, &tls);
        if (r < 0)
                return r;
        if (SSL_CTX_use_certificate_chain_file(tls, certificate_file) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls, key_file, SSL_FILETYPE_PEM) != 1)
                return -EINVAL;
        *ret = TAKE_PTR(tls);
        return 0;
}

int hub_tls_new_pair(X509 *certificate, EVP_PKEY *key, bool ask_certificate, SSL_CTX **ret) {
        _cleanup_(SSL_CTX_freep) SSL_CTX *tls = NULL;
        int r;

        r = begin(ask_certificate, &tls);
        if (r < 0)
                return r;
        if (SSL_CTX_use_certificate(tls, certificate) != 1 || SSL_CTX_use_PrivateKey(tls, key) != 1)
                return -EINVAL;
        *ret = TAKE_PTR(tls);
        return 0;
}
