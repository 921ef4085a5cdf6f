# deqmamba: `make` builds, `make help` lists everything else.
#
# Numeric sources are compiled several times: by precision (f32, f64, and c64 = complex double for
# complex-step derivatives) and, for what runs on the CPU's vector units (kernels/, solvers/), by
# instruction set (cpu = baseline, cpu_v3 = AVX2, cpu_v4 = AVX-512); the program picks at run time.

CC ?= gcc
BUILD ?= build
ARCH := $(shell uname -m)
ISAS := cpu $(if $(filter x86_64,$(ARCH)),cpu_v3 cpu_v4)
ISA_FLAGS_cpu :=
ISA_FLAGS_cpu_v3 := -march=x86-64-v3
ISA_FLAGS_cpu_v4 := -march=x86-64-v4 -mprefer-vector-width=512
BITS_f32 := 32
BITS_f64 := 64
BITS_c64 := 128

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion -Wmissing-prototypes \
            -Wvla -Wundef -Wcast-qual -Werror
OPTIMISE ?= -O3
SANITIZE ?=
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE $(OPTIMISE) -g1 -fopenmp -ffp-contract=off $(WARNINGS) \
              -Wno-unknown-pragmas -I. -MMD -MP $(SANITIZE) $(CFLAGS)
LDLIBS_ALL := -lyaml -ljansson -llapacke -lopenblas -lm -ldl $(LDLIBS)
LDFLAGS_ALL := -fopenmp $(SANITIZE) $(LDFLAGS)

# core/ files that know a precision; the rest of core/ is compiled once
NUMERIC_CORE := $(wildcard $(addprefix core/,mamba2.c model.c dry.c network.c implicit.c training.c evaluation.c \
                  gradient.c checkpoint.c jacobian.c))
PLAIN_CORE := $(filter-out $(NUMERIC_CORE),$(wildcard core/*.c))
PLAIN_KERNELS := $(wildcard $(addprefix kernels/,backends.c blas.c))
KERNELS := $(filter-out $(PLAIN_KERNELS) %_cuda.c,$(wildcard kernels/*.c))
PLAIN_SOLVERS := $(wildcard solvers/registry.c)
SOLVERS := $(filter-out $(PLAIN_SOLVERS),$(wildcard solvers/*.c))
PROGRAMS := $(patsubst experiments/%.c,$(BUILD)/%,$(wildcard $(addprefix experiments/,train.c \
              evaluate.c compare.c jacobian_check.c bench.c)))
SHARED_EXPERIMENTS := $(filter-out $(PROGRAMS:$(BUILD)/%=experiments/%.c),$(wildcard experiments/*.c))
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
TEST_NUMERIC := $(wildcard tests/numeric/*.c)
TEST_SHARED := $(filter-out tests/test_%,$(wildcard tests/*.c))

obj = $(patsubst %.c,$(BUILD)/obj/$(1)/%.o,$(2))
LIB_OBJECTS := $(call obj,plain,$(PLAIN_CORE) $(PLAIN_KERNELS) $(PLAIN_SOLVERS)) \
  $(foreach p,f32 f64,$(call obj,$(p),$(NUMERIC_CORE)) \
    $(foreach i,$(ISAS),$(call obj,$(i)_$(p),$(KERNELS) $(SOLVERS))))
COMPLEX_OBJECTS := $(call obj,c64,$(NUMERIC_CORE)) $(call obj,cpu_c64,$(KERNELS) $(SOLVERS))
TEST_OBJECTS := $(call obj,plain,$(TEST_SHARED)) \
  $(foreach p,f32 f64 c64,$(call obj,$(p),$(TEST_NUMERIC)))

.PHONY: all programs
all: programs
programs: $(PROGRAMS)

$(BUILD)/libdeqmamba.a: $(LIB_OBJECTS)
	@rm -f $@ && $(AR) rcs $@ $^
$(BUILD)/libdeqmamba_complex.a: $(COMPLEX_OBJECTS)
	@rm -f $@ && $(AR) rcs $@ $^
$(PROGRAMS): $(BUILD)/%: $(call obj,plain,experiments/%.c) $(call obj,plain,$(SHARED_EXPERIMENTS)) \
             $(BUILD)/libdeqmamba.a $(BUILD)/libdeqmamba_complex.a
	@echo "  link $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS_ALL)
$(TESTS): $(BUILD)/tests/%: $(call obj,plain,tests/%.c) $(TEST_OBJECTS) \
          $(call obj,plain,$(SHARED_EXPERIMENTS)) $(BUILD)/libdeqmamba.a $(BUILD)/libdeqmamba_complex.a
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LDLIBS_ALL)

# compile rules: one a variant
$(BUILD)/obj/plain/%.o: %.c
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -c -o $@ $<
define precision_rule
$(BUILD)/obj/$(1)/%.o: %.c
	@mkdir -p $$(@D)
	@echo "  $(1) $$<"
	@$$(CC) $$(CFLAGS_ALL) -DREAL_BITS=$(BITS_$(1)) -c -o $$@ $$<
endef
define isa_rule
$(BUILD)/obj/$(1)_$(2)/%.o: %.c
	@mkdir -p $$(@D)
	@echo "  $(1)_$(2) $$<"
	@$$(CC) $$(CFLAGS_ALL) -Wc++-compat -DREAL_BITS=$(BITS_$(2)) -DISA=$(1) $(ISA_FLAGS_$(1)) -c -o $$@ $$<
endef
$(foreach p,f32 f64 c64,$(eval $(call precision_rule,$(p))))
$(foreach p,f32 f64 c64,$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i),$(p)))))

.PHONY: test
test: $(TESTS) $(PROGRAMS)
	@tests/run $(TESTS)

.PHONY: clean
clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
