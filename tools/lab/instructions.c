// A plugin of qemu-user that counts executed instructions by function.
// tools/lab/count_instructions.py compiles it and reads what it writes to the plugin's log: lines
// "INSTRUCTIONS FUNCTION". For programs of one thread.
//
// The declarations are those of qemu-plugin.h, which distributions do not ship. Only what every
// version of the interface has is used; the version is the compiler's macro API.

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void translated_fn(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void executed_fn(unsigned, void *);
typedef void ended_fn(qemu_plugin_id_t, void *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_fn *);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed_fn *, int,
                                                 void *);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ended_fn *, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
extern void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = API;

struct function {
    char *name;
    uint64_t instructions;
    struct function *next;
};

// A translated block: straight-line code of one function.
struct block {
    struct function *function;
    size_t instructions;
};

static struct function *functions;

static struct function *find(const char *name) {
    for (struct function *f = functions; f; f = f->next) {
        if (!strcmp(f->name, name)) {
            return f;
        }
    }
    struct function *f = calloc(1, sizeof *f);
    f->name = strdup(name);
    f->next = functions;
    return functions = f;
}

static void executed(unsigned cpu, void *data) {
    (void)cpu;
    struct block *block = data;
    block->function->instructions += block->instructions;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    struct block *block = malloc(sizeof *block);
    block->function = find(name ? name : "(no symbol)");
    block->instructions = qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void ended(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    for (struct function *f = functions; f; f = f->next) {
        char line[4096];
        snprintf(line, sizeof line, "%" PRIu64 " %s\n", f->instructions, f->name);
        qemu_plugin_outs(line);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const void *info, int argc,
                                                               char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
