/* SPDX-License-Identifier: Apache-2.0
 * ca_dev.c: the development CA of ca.h: a P-256 root in a directory and leaves signed in this
 * process.
 *
 * Several processes and nodes may share the directory: making the root happens under a lock, the
 * key is written before the certificate, and the certificate's presence is what says "complete".
 * Names say DEVELOPMENT wherever a person may meet them.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/spiffe.h"
#include "lib/wire/tls.h"
#include "ztunnel/control/ca.h"
#include "ztunnel/control/ca_internal.h"

#define ROOT_CN	       "ambient DEVELOPMENT CA (not for production)"
#define ROOT_DAYS      3650
#define BACKDATE_SEC   120 /* clocks of nodes that share the directory may differ */
#define PEM_FILE_BYTES (64u << 10)
#define SERIAL_BYTES   16

struct ca_dev {
	struct ca base;
	char *dir;
	uint64_t ttl_s;
	EVP_PKEY *key;
	X509 *root;
	char *root_pem;
};

static void pkey_freep(EVP_PKEY **p)
{
	EVP_PKEY_free(*p);
}
static void x509_freep(X509 **p)
{
	X509_free(*p);
}
static void bio_freep(BIO **p)
{
	BIO_free_all(*p);
}

static EVP_PKEY *new_key(struct err *err)
{
	EVP_PKEY *k = EVP_EC_gen("P-256");

	if (k == NULL)
		(void)err_set(err, EIO, "OpenSSL cannot make a P-256 key");
	return k;
}

static bool set_serial(X509 *x)
{
	unsigned char raw[SERIAL_BYTES];
	BIGNUM *bn;
	bool ok;

	if (getentropy(raw, sizeof(raw)) != 0)
		return false;
	raw[0] = (raw[0] & 0x7f) | 0x40; /* positive, and always of the same length */
	bn = BN_bin2bn(raw, sizeof(raw), NULL);
	ok = bn != NULL && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(x)) != NULL;
	BN_free(bn);
	return ok;
}

static bool add_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;
	bool ok;

	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value); /* @value is ours, never a peer's */
	ok = e != NULL && X509_add_ext(x, e, -1) == 1;
	X509_EXTENSION_free(e);
	return ok;
}

/* One critical URI name, put there as bytes: no text is interpreted. */
static bool add_spiffe(X509 *x, const char *spiffe)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *n = GENERAL_NAME_new();
	ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
	bool ok = names != NULL && n != NULL && uri != NULL &&
		  ASN1_STRING_set(uri, spiffe, (int)strlen(spiffe)) == 1;

	if (ok) {
		GENERAL_NAME_set0_value(n, GEN_URI, uri);
		uri = NULL;
		ok = sk_GENERAL_NAME_push(names, n) > 0;
		if (ok)
			n = NULL;
		ok = ok && X509_add1_ext_i2d(x, NID_subject_alt_name, names, 1, 0) == 1;
	}
	ASN1_IA5STRING_free(uri);
	GENERAL_NAME_free(n);
	GENERAL_NAMES_free(names);
	return ok;
}

static char *pem_of_cert(X509 *x)
{
	_cleanup_(bio_freep) BIO *b = BIO_new(BIO_s_mem());
	char *p;
	long n;

	if (b == NULL || PEM_write_bio_X509(b, x) != 1)
		return NULL;
	n = BIO_get_mem_data(b, &p);
	return xstrndup(p, (size_t)n);
}

/* PKCS#8 text in memory that the caller wipes (BIO_s_secmem wipes by itself). */
static BIO *pem_of_key(EVP_PKEY *k)
{
	BIO *b = BIO_new(BIO_s_secmem());

	if (b != NULL && PEM_write_bio_PKCS8PrivateKey(b, k, NULL, NULL, 0, NULL, NULL) == 1)
		return b;
	BIO_free(b);
	return NULL;
}

static X509 *new_cert(EVP_PKEY *key, time_t lifetime_s)
{
	X509 *x = X509_new();

	if (x != NULL && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) &&
	    X509_gmtime_adj(X509_getm_notBefore(x), -BACKDATE_SEC) != NULL &&
	    X509_time_adj_ex(X509_getm_notAfter(x), (int)(lifetime_s / 86400), lifetime_s % 86400,
			     NULL) != NULL &&
	    X509_set_pubkey(x, key) == 1)
		return x;
	X509_free(x);
	return NULL;
}

static X509 *make_root(EVP_PKEY *key, struct err *err)
{
	_cleanup_(x509_freep) X509 *x = new_cert(key, (time_t)ROOT_DAYS * 86400);
	X509_NAME *name = x != NULL ? X509_get_subject_name(x) : NULL;

	if (name == NULL ||
	    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)ROOT_CN, -1,
				       -1, 0) != 1 ||
	    X509_set_issuer_name(x, name) != 1 ||
	    !add_ext(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
	    !add_ext(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !add_ext(x, x, NID_subject_key_identifier, "hash") ||
	    X509_sign(x, key, EVP_sha256()) == 0) {
		(void)err_set(err, EIO, "OpenSSL cannot make the root certificate");
		return NULL;
	}
	return take_ptr(x);
}

static int write_root(const char *key_path, const char *cert_path, struct err *err)
{
	_cleanup_(pkey_freep) EVP_PKEY *key = new_key(err);
	_cleanup_(x509_freep) X509 *root = key != NULL ? make_root(key, err) : NULL;
	_cleanup_(bio_freep) BIO *pem = root != NULL ? pem_of_key(key) : NULL;
	_cleanup_free_ char *cert = root != NULL ? pem_of_cert(root) : NULL;
	char *p;
	long n;

	if (root == NULL)
		return -EIO;
	if (pem == NULL || cert == NULL)
		return err_set(err, EIO, "OpenSSL cannot write PEM");
	n = BIO_get_mem_data(pem, &p);
	if (file_write_atomic(key_path, p, (size_t)n, 0600, err) != 0)
		return -EIO;
	return file_write_atomic(cert_path, cert, strlen(cert), 0644, err);
}

static int check_key_mode(const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return err_errno(err, errno, "%s", path);
	if ((st.st_mode & 077) != 0 || st.st_uid != geteuid())
		return err_set(
			err, EPERM,
			"%s must belong to uid %u with mode 0600 (it has uid %u, mode %04o): "
			"whoever can read it can be any workload",
			path, geteuid(), st.st_uid, st.st_mode & 07777);
	return 0;
}

static int load_root(struct ca_dev *ca, const char *key_path, const char *cert_path,
		     struct err *err)
{
	_cleanup_(bio_freep) BIO *k = NULL;
	_cleanup_(bio_freep) BIO *c = NULL;
	size_t n;

	if (check_key_mode(key_path, err) != 0 ||
	    file_read(cert_path, PEM_FILE_BYTES, &ca->root_pem, &n, err) != 0)
		return -EIO;
	k = BIO_new_file(key_path, "r");
	c = BIO_new_mem_buf(ca->root_pem, (int)n);
	ca->key = k != NULL ? PEM_read_bio_PrivateKey(k, NULL, NULL, NULL) : NULL;
	ca->root = c != NULL ? PEM_read_bio_X509(c, NULL, NULL, NULL) : NULL;
	if (ca->key == NULL)
		return err_set(err, EINVAL, "%s is not a PEM private key", key_path);
	if (ca->root == NULL)
		return err_set(err, EINVAL, "%s is not a PEM certificate", cert_path);
	if (X509_check_private_key(ca->root, ca->key) != 1)
		return err_set(err, EINVAL, "%s and %s do not belong together", cert_path,
			       key_path);
	if (X509_cmp_current_time(X509_get0_notAfter(ca->root)) <= 0)
		return err_set(err, EINVAL, "%s has expired; remove it and %s to get a new root",
			       cert_path, key_path);
	return 0;
}

static int lock_dir(const char *dir, struct err *err)
{
	_cleanup_free_ char *path = xasprintf("%s/.lock", dir);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	while (flock(fd, LOCK_EX) < 0) /* held for a few milliseconds by whoever makes the root */
		if (errno != EINTR)
			return err_errno(err, errno, "lock %s", path);
	return take_fd(fd);
}

/* The certificate is written last: where it is, the key is too. */
static int make_root_once(const char *dir, const char *key, const char *cert, struct err *err)
{
	_cleanup_close_ int lock = -1;

	if (dir_make(dir, 0700, err) != 0)
		return -EIO;
	lock = lock_dir(dir, err);
	if (lock < 0)
		return lock;
	if (access(cert, F_OK) == 0)
		return 0;
	if (write_root(key, cert, err) != 0)
		return -EIO;
	log_warn("ca", "made a new DEVELOPMENT root in %s: not for production", dir);
	return 0;
}

static int open_root(struct ca_dev *ca, struct err *err)
{
	_cleanup_free_ char *key = xasprintf("%s/dev-root.key", ca->dir);
	_cleanup_free_ char *cert = xasprintf("%s/dev-root.pem", ca->dir);
	/* nothing is written where the root is there: the directory may be a mounted Secret */
	int r = access(cert, F_OK) == 0 ? 0 : make_root_once(ca->dir, key, cert, err);

	return r < 0 ? r : load_root(ca, key, cert, err);
}

static X509 *make_leaf(struct ca_dev *ca, EVP_PKEY *key, const char *spiffe)
{
	_cleanup_(x509_freep) X509 *x = new_cert(key, (time_t)ca->ttl_s);

	if (x == NULL || X509_set_issuer_name(x, X509_get_subject_name(ca->root)) != 1 ||
	    !add_spiffe(x, spiffe) ||
	    !add_ext(x, ca->root, NID_basic_constraints, "critical,CA:FALSE") ||
	    !add_ext(x, ca->root, NID_key_usage, "critical,digitalSignature") ||
	    !add_ext(x, ca->root, NID_ext_key_usage, "serverAuth,clientAuth") ||
	    !add_ext(x, ca->root, NID_authority_key_identifier, "keyid") ||
	    X509_sign(x, ca->key, EVP_sha256()) == 0)
		return NULL;
	return take_ptr(x);
}

static struct tls_identity *issue(struct ca_dev *ca, const char *spiffe, struct err *err)
{
	_cleanup_(pkey_freep) EVP_PKEY *key = NULL;
	_cleanup_(x509_freep) X509 *leaf = NULL;
	_cleanup_(bio_freep) BIO *key_pem = NULL;
	_cleanup_free_ char *chain = NULL;
	struct spiffe_id id;
	char *p;
	long n;

	if (spiffe_parse(str_of(spiffe), &id) != 0) {
		(void)err_set(err, EINVAL, "%s is not a workload identity",
			      str_shown(str_of(spiffe)));
		return NULL;
	}
	key = new_key(err);
	if (key == NULL)
		return NULL;
	leaf = make_leaf(ca, key, spiffe);
	key_pem = leaf != NULL ? pem_of_key(key) : NULL;
	chain = leaf != NULL ? pem_of_cert(leaf) : NULL;
	if (key_pem == NULL || chain == NULL) {
		(void)err_set(err, EIO, "OpenSSL cannot make a certificate");
		return NULL;
	}
	n = BIO_get_mem_data(key_pem, &p);
	return tls_identity_new(str_of(chain), (struct str){p, (size_t)n}, str_of(ca->root_pem),
				err);
}

static void dev_issue(struct ca *base, const char *spiffe,
		      void (*done)(void *ctx, struct tls_identity *id, const char *error),
		      void *ctx)
{
	struct ca_dev *ca = container_of(base, struct ca_dev, base);
	struct err err = {0};
	struct tls_identity *id = issue(ca, spiffe, &err);

	done(ctx, id, id != NULL ? NULL : err.msg);
}

static void dev_free(struct ca *base)
{
	struct ca_dev *ca = container_of(base, struct ca_dev, base);

	EVP_PKEY_free(ca->key);
	X509_free(ca->root);
	free(ca->root_pem);
	free(ca->dir);
	free(ca);
}

static const struct ca_ops dev_ops = {.free = dev_free, .issue = dev_issue, .dev = true};

struct ca *ca_dev_new(struct loop *l, const char *dir, uint64_t ttl_s, struct err *err)
{
	struct ca_dev *ca = xcalloc(1, sizeof(*ca));

	(void)l; /* this provider answers at once */
	ca->base.ops = &dev_ops;
	ca->base.name = xasprintf("development CA (%s)", dir);
	ca->dir = xstrdup(dir);
	ca->ttl_s = ttl_s;
	if (open_root(ca, err) != 0) {
		(void)err_wrap(err, "development CA");
		return ca_free(&ca->base);
	}
	return &ca->base;
}
