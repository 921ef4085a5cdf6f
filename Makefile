# deqmamba: `make` builds, `make help` lists everything else.
#
# Numeric sources are compiled several times: by precision (f32, f64, and c64 = complex double for
# complex-step derivatives) and, for what runs on the CPU's vector units (kernels/, solvers/), by
# instruction set (cpu = baseline, cpu_v3 = AVX2, cpu_v4 = AVX-512); the program picks at run time.

ifeq ($(origin CC),default)
CC := gcc
endif
BUILD ?= build
PREFIX ?= /usr/local
ARCH := $(shell uname -m)
ISAS := cpu $(if $(filter x86_64,$(ARCH)),cpu_v3 cpu_v4)
ISA_FLAGS_cpu :=
ISA_FLAGS_cpu_v3 := -march=x86-64-v3
ISA_FLAGS_cpu_v4 := -march=x86-64-v4 -mprefer-vector-width=512
BITS_f32 := 32
BITS_f64 := 64
BITS_c64 := 128
GCC := $(filter gcc%,$(notdir $(firstword $(shell $(CC) --version 2>/dev/null))))
# Complex numbers divide by Smith's method, and products of infinities, of which there are none here,
# are not mended: a fifth of the time of the tests by complex step.
CFLAGS_c64 = -O1 -Wno-maybe-uninitialized $(if $(GCC),-fcx-fortran-rules)
# A tile of zeros is a few vectors, not a call or a string instruction.  A loop begins with a cache
# line: else code that grows elsewhere makes the SSD's VJP 6 % slower or faster.
KERNEL_FLAGS := $(if $(GCC),-fno-tree-loop-distribute-patterns -falign-loops=64)

, := ,
# as many jobs as there are cores, unless the user said how many
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
endif

# what the libraries need, as .ci/deps found it (and installed it where it was missing)
ifneq ($(filter-out help clean format floors deps,$(or $(MAKECMDGOALS),all)),)
include $(BUILD)/deps.mk
endif

# warnings are those of gcc 12; other compilers' differ
WERROR ?= $(if $(GCC),-Werror)
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion -Wmissing-prototypes \
            -Wvla -Wundef -Wcast-qual $(WERROR)
# -O2 with the same vectoriser compiles in two thirds of the time, but the paper's step then takes
# 1.3 times as long
OPTIMISE ?= -O3
SANITIZE ?=
LANGUAGE := -std=c17 -D_GNU_SOURCE $(if $(filter cpu_v3,$(ISAS)),-DISA_LEVELS) -I. $(BLAS_CFLAGS)
CFLAGS_ALL := $(LANGUAGE) $(OPTIMISE) -g1 -fopenmp -ffp-contract=off \
              -fno-trapping-math -fno-math-errno $(WARNINGS) -Wno-unknown-pragmas -MMD -MP \
              $(SANITIZE) $(CFLAGS)
LDLIBS_ALL := -lyaml -ljansson $(BLAS_LIBS) -lm -ldl $(LDLIBS)
# core/parallel.c
WRAPPED := $(if $(filter Linux,$(shell uname -s)),-Wl$(,)--wrap=GOMP_parallel)
# libraries that lie in lib/ beside a program are taken: those of an unpacked bundle
ORIGIN := $(if $(filter Linux,$(shell uname -s)),-Wl$(,)--disable-new-dtags$(,)-rpath$(,)'$$ORIGIN/lib:$$ORIGIN/../lib')
LDFLAGS_ALL := -fopenmp $(WRAPPED) $(SANITIZE) $(ORIGIN) $(LDFLAGS)

# core/ files that know a precision include a header that makes names by it; the rest is compiled once
NUMERIC_HEADERS := $(shell grep -lw NAME core/*.h)
NUMERIC_CORE := $(shell grep -lF $(NUMERIC_HEADERS:%=-e '"%"') core/*.c)
PLAIN_CORE := $(filter-out $(NUMERIC_CORE),$(wildcard core/*.c))
PLAIN_KERNELS := $(wildcard $(addprefix kernels/,backends.c blas.c))
KERNELS := $(filter-out $(PLAIN_KERNELS) %_cuda.c,$(wildcard kernels/*.c))
PLAIN_SOLVERS := $(wildcard solvers/registry.c)
SOLVERS := $(filter-out $(PLAIN_SOLVERS),$(wildcard solvers/*.c))
PROGRAMS := $(patsubst experiments/%.c,$(BUILD)/%,$(wildcard $(addprefix experiments/,train.c \
              evaluate.c compare.c jacobian_check.c bench.c)))
SHARED_EXPERIMENTS := $(filter-out $(PROGRAMS:$(BUILD)/%=experiments/%.c),$(wildcard experiments/*.c))
ONLY ?= *
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard $(ONLY:%=tests/test_%.c)))
TEST_NUMERIC := $(wildcard tests/numeric/*.c)
TEST_SHARED := $(filter-out tests/test_%,$(wildcard tests/*.c))

obj = $(patsubst %.c,$(BUILD)/obj/$(1)/%.o,$(2))
LIB_OBJECTS := $(call obj,plain,$(PLAIN_CORE) $(PLAIN_KERNELS) $(PLAIN_SOLVERS)) \
  $(foreach p,f32 f64,$(call obj,$(p),$(NUMERIC_CORE)) \
    $(foreach i,$(ISAS),$(call obj,$(i)_$(p),$(KERNELS) $(SOLVERS))))
COMPLEX_OBJECTS := $(call obj,c64,$(NUMERIC_CORE)) $(call obj,cpu_c64,$(KERNELS) $(SOLVERS))
TEST_OBJECTS := $(call obj,plain,$(TEST_SHARED)) \
  $(foreach p,f32 f64 c64,$(call obj,$(p),$(TEST_NUMERIC)))

.PHONY: all
all: $(PROGRAMS) ## builds the programs into build/ (the default)

# The plug-in's sources on the CPU, over a stand-in for CUDA (tests/emulation): for tests.
CXX ?= g++
EMULATED := $(if $(shell command -v $(CXX)),$(BUILD)/libdeqmamba_emulated.so)

# ---- compiling: one rule a variant ----

$(BUILD)/deps.mk: .ci/deps
	@.ci/deps --flags $@
$(BUILD)/%.tools: .ci/deps
	@.ci/deps --$* && mkdir -p $(@D) && touch $@

# What crosses between a program and the GPU's plug-in, and the sources that compare it (kernels/plugin.h).
PLUGIN_HEADERS := $(wildcard $(addprefix core/,arena.h backend.h dense.h fixed_point.h launch.h operations.def operations.h options.h real.h status.h) kernels/plugin.h)
PLUGIN_ENDS := kernels/backends.c kernels/device_cuda.c
PLUGIN_HASH := $(firstword $(shell cat $(PLUGIN_HEADERS) | cksum))
plugin_hash = $(if $(filter $(PLUGIN_ENDS),$<),-DPLUGIN_HASH=$(PLUGIN_HASH)u)
$(foreach d,obj/plain cuda/plain obj/emulated/plain,$(PLUGIN_ENDS:%.c=$(BUILD)/$(d)/%.o)): $(PLUGIN_HEADERS)

# objects are made again when the flags have changed
FLAGS := $(CC) $(KINSOL_CFLAGS) $(CFLAGS_ALL) $(CFLAGS_c64) $(KERNEL_FLAGS) $(foreach i,$(ISAS),$(ISA_FLAGS_$(i))) \
         $(subst ',,$(LDFLAGS_ALL) $(LDLIBS_ALL))
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' >$@
.PHONY: FORCE
FORCE:

# under another name first: what a kill leaves is never taken for whole (coverage goes by the name)
into = $(if $(findstring --coverage,$(OPTIMISE)),-c -o $@ $<,-MT $@ -MF $(@:.o=.d) -c -o $@.tmp $< && mv $@.tmp $@)
$(BUILD)/obj/plain/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile $<"
	@$(CC) $(CFLAGS_ALL) $(plugin_hash) $(into)
$(call obj,plain,$(wildcard tests/*.c)) $(TEST_OBJECTS): | $(BUILD)/test.tools
define precision_rule
$(BUILD)/obj/$(1)/%.o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	@echo "  compile $$< ($(1))"
	@$$(CC) $$(CFLAGS_ALL) $$(CFLAGS_$(1)) -DREAL_BITS=$(BITS_$(1)) $$(into)
endef
define isa_rule
$(BUILD)/obj/$(1)_$(2)/%.o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	@echo "  compile $$< ($(1) $(2))"
	@$$(CC) $$(CFLAGS_ALL) $$(CFLAGS_$(2)) -Wc++-compat $(KERNEL_FLAGS) \
	  -DREAL_BITS=$(BITS_$(2)) -DISA=$(1) \
	  $(ISA_FLAGS_$(1)) $$(into)
endef
$(foreach p,f32 f64 c64,$(eval $(call precision_rule,$(p))))
$(foreach p,f32 f64 c64,$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i),$(p)))))

# ---- linking ----

$(BUILD)/libdeqmamba.a: $(LIB_OBJECTS)
$(BUILD)/libdeqmamba_complex.a: $(COMPLEX_OBJECTS)
$(BUILD)/%.a:
	@rm -f $@ && $(AR) rcs $@.tmp $^ && mv $@.tmp $@
$(BUILD)/libexperiments.a: $(call obj,plain,$(SHARED_EXPERIMENTS)) # a program takes what it uses
link = @mkdir -p $(@D) && echo "  link $@" && $(CC) $(LDFLAGS_ALL) -o $@.tmp $(filter %.o,$^) \
  $(filter %/libexperiments.a,$^) $(filter %_complex.a,$^) $(filter %/libdeqmamba.a,$^)
$(PROGRAMS): $(BUILD)/%: $(call obj,plain,experiments/%.c) $(BUILD)/libexperiments.a \
             $(BUILD)/libdeqmamba.a
	$(link) $(LDLIBS_ALL) && mv $@.tmp $@
$(BUILD)/jacobian_check $(BUILD)/bench: $(BUILD)/libdeqmamba_complex.a
$(BUILD)/bench: LDLIBS_ALL += $(KINSOL_LIBS)
$(BUILD)/obj/plain/experiments/bench_kinsol.o: CFLAGS_ALL += $(KINSOL_CFLAGS)
$(TESTS): $(BUILD)/tests/%: $(call obj,plain,tests/%.c) $(TEST_OBJECTS) \
          $(BUILD)/libexperiments.a $(BUILD)/libdeqmamba.a $(BUILD)/libdeqmamba_complex.a
	$(link) -lcmocka $(LDLIBS_ALL) && mv $@.tmp $@
$(BUILD)/tests/test_cuda: | $(EMULATED)

# ---- using ----

.PHONY: quickstart bench test test-baseline install
quickstart: $(BUILD)/train $(BUILD)/compare ## trains a small implicit and a small explicit model, and compares
	@.ci/deps --figures || echo "deqmamba: going on without figures"
	@BUILD=$(BUILD) experiments/quickstart.sh
ifneq ($(wildcard experiments/bench.c),)
BENCH ?= train decode scaling kernels jacobian solvers
bench: $(BUILD)/bench ## measures speed; BENCH="..." for some of it
	@for what in $(BENCH); do $(BUILD)/bench $$what || exit; done
endif
install: $(PROGRAMS) ## into PREFIX (/usr/local): bin/deqmamba-train and so on, share/deqmamba/configs, the GPU's plug-in where it was made
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/deqmamba
	for p in $(notdir $(PROGRAMS)); do \
	  install $(BUILD)/$$p $(DESTDIR)$(PREFIX)/bin/deqmamba-`echo $$p | tr _ -` || exit; done
	cp -R configs $(DESTDIR)$(PREFIX)/share/deqmamba/
	if test -f $(BUILD)/libdeqmamba_cuda.so; then install -d $(DESTDIR)$(PREFIX)/lib/deqmamba && \
	  install $(BUILD)/libdeqmamba_cuda.so $(DESTDIR)$(PREFIX)/lib/deqmamba/; fi

# ---- checking ----

test: $(TESTS) $(PROGRAMS) ## builds and runs all tests; ONLY="data blas" for two of them
	@BUILD=$(BUILD) tests/run $(TESTS)
test-baseline: $(TESTS) $(PROGRAMS) ## the same with our kernels forced to the baseline instructions
	@DEQMAMBA_ISA=cpu LOG=baseline.log BUILD=$(BUILD) tests/run $(TESTS)

.PHONY: check format format-check lint tidy cppcheck floors noderef asan cover mutants
check: format-check lint floors noderef test asan ## all of what a change must pass: format, lint, floors, noderef, test, asan
$(BUILD)/test.tools: $(if $(filter check asan,$(MAKECMDGOALS)),$(BUILD)/dev.tools)

SOURCES := $(wildcard $(foreach d,core kernels solvers experiments tests tests/numeric,$(d)/*.c $(d)/*.cu))
HEADERS := $(wildcard $(foreach d,core kernels solvers experiments tests tests/numeric,$(d)/*.h $(d)/*.def))

CLANG_FORMAT ?= clang-format
format: ## lays the sources out (clang-format 14)
	$(CLANG_FORMAT) -i $(SOURCES) $(filter %.h,$(HEADERS))
format-check: $(BUILD)/dev.tools ## fails when `make format` would change something
	@if $(CLANG_FORMAT) --version | grep -q 'version 14\.'; then \
	  $(CLANG_FORMAT) --dry-run -Werror $(SOURCES) $(filter %.h,$(HEADERS)); \
	else echo "format-check: skipped, needs clang-format 14 (others lay out differently)"; fi

lint: tidy cppcheck ## clang-tidy and cppcheck
# clang has no omp.h of its own (gcc's is searched last) and does not know all parts of the ISA levels
CLANG_FLAGS = $(filter-out -DISA_LEVELS,$(LANGUAGE)) -fopenmp -Wno-unknown-pragmas -DREAL_BITS=64 \
              -idirafter $(dir $(shell $(CC) -print-file-name=include/omp.h))
# states of a function that are looked at: clang's own limit, 225000, takes three times as long
TIDY_NODES ?= 75000
tidy: $(patsubst %.c,$(BUILD)/tidy/%.ok,$(filter-out tests/%,$(filter %.c,$(SOURCES))))
$(BUILD)/tidy/%.ok: %.c .clang-tidy $(HEADERS) | $(BUILD)/dev.tools
	@mkdir -p $(@D)
	@echo "  tidy $<"
	@clang-tidy --quiet $< -- $(CLANG_FLAGS) -Xclang -analyzer-config -Xclang max-nodes=$(TIDY_NODES) \
	  2>$@.log || { cat $@.log; exit 1; }
	@mv $@.log $@
cppcheck: $(BUILD)/dev.tools
	@mkdir -p $(BUILD)/cppcheck
	@cppcheck --quiet -j2 --std=c11 --platform=unix64 --language=c --error-exitcode=1 --inline-suppr \
	  --enable=warning,performance,portability --suppressions-list=.ci/cppcheck \
	  --cppcheck-build-dir=$(BUILD)/cppcheck -I. -D_GNU_SOURCE -DREAL_BITS=64 -D__x86_64__ -DISA_LEVELS \
	  -D'__attribute__(x)=' \
	  core kernels solvers $(wildcard experiments)
floors: ## includes may point downwards only
	@.ci/floors

# device memory is touched by kernels only: clang's noderef sees it without any GPU
noderef: $(patsubst %.c,$(BUILD)/noderef/%.ok,$(NUMERIC_CORE) $(SOLVERS)) ## no host code reads device memory
$(BUILD)/noderef/%.ok: %.c $(HEADERS) | $(BUILD)/dev.tools
	@mkdir -p $(@D)
	@echo "  noderef $<"
	@.ci/noderef $< $(CLANG_FLAGS) && touch $@

asan: | $(BUILD)/test.tools $(EMULATED) ## all tests under the address and undefined-behaviour sanitizers
	+@$(MAKE) --no-print-directory ISAS=cpu BUILD=$(BUILD)/asan EMULATED=$(EMULATED) OPTIMISE='-O1 -DDEBUG -fno-omit-frame-pointer' WERROR=-Wno-maybe-uninitialized \
	  SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all' test
MUTATED := test_solve test_solve_methods test_solve_pitfalls test_model test_shine test_backward test_spectrum
MUTANT_OBJECTS = $(TEST_OBJECTS) $(call obj,plain,$(SHARED_EXPERIMENTS))
MUTANT_LIBRARIES = $(BUILD)/libdeqmamba_complex.a $(BUILD)/libdeqmamba.a
mutants: $(call obj,plain,$(MUTATED:%=tests/%.c)) $(MUTANT_OBJECTS) $(MUTANT_LIBRARIES) ## removes one remedy of the solvers at a time: its test must fail; MUTANTS="..." for some
	@COMPILE='$(CC) $(CFLAGS_ALL) -w -MF /dev/null' LINK='$(CC) $(LDFLAGS_ALL)' OBJECTS='$(MUTANT_OBJECTS)' \
	  LIBRARIES='$(MUTANT_LIBRARIES) -lcmocka $(KINSOL_LIBS) $(LDLIBS_ALL)' BUILD=$(BUILD) tests/mutants/run $(MUTANTS)
cover: | $(BUILD)/test.tools ## which lines of core/, kernels/ and solvers/ the tests reach
	@find $(BUILD)/cover -name '*.gcda' -delete 2>/dev/null || true
	+@$(MAKE) --no-print-directory ISAS=cpu BUILD=$(BUILD)/cover OPTIMISE='-O0 --coverage' WERROR=-Wno-maybe-uninitialized LDFLAGS=--coverage test
	@.ci/cover $(BUILD)/cover

.PHONY: kill-test fuzz
kill-test: $(BUILD)/tests/test_resume $(BUILD)/train ## kills training at KILLS (1000) random moments, resumes, compares
	KILLS=$(or $(KILLS),1000) $<

# readers of what others wrote, under libFuzzer; what it finds is kept in build/fuzz/
FUZZ_SECONDS ?= 60
FUZZ_CC ?= clang
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_CORE := $(addprefix core/,config.c config_check.c config_keys.c config_value.c config_yaml.c \
               files.c group_name.c options.c safetensors.c status.c tokens.c trainer_state.c yaml_events.c)
$(BUILD)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(FUZZ_CORE) $(HEADERS) tests/fuzz/fuzz_file.h | $(BUILD)/dev.tools
	@mkdir -p $(@D)/corpus/$*
	@echo "  fuzzer $@"
	@$(FUZZ_CC) -std=c17 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined \
	  -fno-sanitize-recover=all -o $@ $< $(FUZZ_CORE) -lyaml -ljansson -lm
fuzz: $(FUZZERS:%=$(BUILD)/fuzz/fuzz_%) ## fuzzes YAML, safetensors, trainer.json, --tokens: FUZZ_SECONDS (60) each
	@for f in $(FUZZERS); do echo "fuzz $$f"; \
	  $(BUILD)/fuzz/fuzz_$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
	    -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/$$f- $(BUILD)/fuzz/corpus/$$f \
	    tests/fuzz/corpus/$$f 2>$(BUILD)/fuzz/$$f.log || { tail -40 $(BUILD)/fuzz/$$f.log; exit 1; }; \
	  grep 'number_of_executed_units' $(BUILD)/fuzz/$$f.log; done

# ---- CUDA ----

NVCC ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) $(addsuffix /bin,$(CUDA_HOME) \
          /usr/local/cuda))))
NVCC_ARCHS = $(filter sm_80 sm_90 sm_100,$(shell $(NVCC) --list-gpu-code))
CUDA_PLAIN := kernels/device_cuda.c kernels/dense_cuda.c kernels/graphs_cuda.c
CUDA_SOURCES := $(filter-out $(wildcard kernels/*_cpu.c kernels/gemm.c),$(KERNELS) $(SOLVERS)) \
                $(filter-out $(CUDA_PLAIN),$(wildcard kernels/*_cuda.c))
CUDA_HOST := core/arena.c core/options.c # what of core/ the solvers call
plugin_objects = $(CUDA_PLAIN:%.c=$(1)/plain/%.o) $(CUDA_HOST:%.c=$(1)/host/%.o) \
                 $(CUDA_SOURCES:%.c=$(1)/f32/%.o) $(CUDA_SOURCES:%.c=$(1)/f64/%.o)
$(BUILD)/cuda/f32/%.o: CUDA_BITS := 32
$(BUILD)/cuda/f64/%.o: CUDA_BITS := 64
# Of what newer architectures have and sm_80 has not only Hopper's warpgroups are used, by WARPGROUPED
# (kernels/warpgroup_cuda.h refuses others); else all are made of the same intermediate code.
WARPGROUPED := $(patsubst %,$(BUILD)/cuda/f32/kernels/%.o,ssd_chunked gated_linear gated_linear_vjp linear linear_conv)
NVCC_FLAGS = -std=c++20 -O3 -lineinfo -I. -MMD -MP -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden
NVCC_CODE = $(foreach a,$(NVCC_ARCHS),-gencode arch=compute_80,code=$(a))
$(WARPGROUPED): NVCC_CODE = -DWARPGROUPED \
  $(foreach a,$(NVCC_ARCHS),-gencode $(if $(filter sm_90 sm_90a,$(a)),arch=compute_90a$(,)code=sm_90a,arch=compute_80$(,)code=$(a)))
NVCC_COMPILE = @mkdir -p $(@D) && echo "  nvcc $< $(if $(CUDA_BITS),(f$(CUDA_BITS)))" && \
  $(NVCC) -x cu $(NVCC_FLAGS) $(NVCC_CODE) $(CUDA_BITS:%=-DREAL_BITS=%) \
  $(plugin_hash) -c -o $@ $<
# plug-in's objects are made again when nvcc, its flags or the architectures have changed
NVCC_ALL = $(NVCC) $(NVCC_FLAGS) $(NVCC_ARCHS)
$(BUILD)/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC_ALL)' | cmp -s - $@ || echo '$(NVCC_ALL)' >$@
define plugin_rules
$(BUILD)/cuda/$(1)/%.o: %.c $(BUILD)/cuda/flags
	$$(NVCC_COMPILE)
$(BUILD)/obj/emulated/$(1)/%.o: %.c
	$$(EMULATE)
endef
$(foreach v,f32 f64 plain,$(eval $(call plugin_rules,$(v))))
define plugin_host_rule
$(1)/host/%.o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	@$$(CC) $$(filter-out $$(SANITIZE) --coverage,$$(CFLAGS_ALL)) -fPIC -fvisibility=hidden -c -o $$@ $$<
endef
$(foreach d,$(BUILD)/cuda $(BUILD)/obj/emulated,$(eval $(call plugin_host_rule,$(d))))
# the libraries of the toolkit that nvcc belongs to, wherever it stands on the machine that runs it
CUDA_LIB = $(firstword $(wildcard $(addprefix $(dir $(NVCC))../,lib64 lib targets/x86_64-linux/lib)))
$(BUILD)/libdeqmamba_cuda.so: $(call plugin_objects,$(BUILD)/cuda)
	@echo "  link $@"
	@$(NVCC) -shared $(filter-out -MMD -MP,$(NVCC_FLAGS)) $(NVCC_CODE) -o $@.tmp $^ -L$(CUDA_LIB) -lcublas -lcublasLt -lcusolver \
	  -Xlinker -z,defs,-rpath,'$$ORIGIN',-rpath,$(abspath $(CUDA_LIB)) && mv $@.tmp $@
.PHONY: cuda
ifneq ($(NVCC),)
cuda: $(BUILD)/libdeqmamba_cuda.so ## builds the GPU's plug-in for sm_80, sm_90, sm_100; needs nvcc, but no GPU
	@echo "cuda: $(words $(call plugin_objects,x)) objects for $(NVCC_ARCHS) in $<"
else
cuda:
	@echo "cuda: skipped, no nvcc in PATH, CUDA_HOME or /usr/local/cuda"
endif

EMULATE = @mkdir -p $(@D) && echo "  emulate $< $(EMULATED_BITS:%=(f%))" && $(CXX) -std=c++20 -O2 -fno-strict-aliasing -w \
  -fPIC -fvisibility=hidden -ffp-contract=off -I. $(BLAS_CFLAGS) -Itests/emulation -D__CUDACC__ \
  -include tests/emulation/cuda_runtime.h $(EMULATED_BITS:%=-DREAL_BITS=%) -MMD -MP \
  $(plugin_hash) \
  $(if $(RACES),-DRACES -g $(EMULATED_BITS:%=-fsanitize=thread)) -c -o $@ -x c++ $<
$(BUILD)/obj/emulated/f32/%.o: EMULATED_BITS := 32
$(BUILD)/obj/emulated/f64/%.o: EMULATED_BITS := 64
$(BUILD)/obj/emulated/plain/%.o: %.cc
	$(EMULATE)
$(BUILD)/libdeqmamba_emulated.so: $(call plugin_objects,$(BUILD)/obj/emulated) \
                                  $(BUILD)/obj/emulated/plain/tests/emulation/emulation.o
	@echo "  link $@"
	@$(CXX) -shared -o $@.tmp $^ -Wl,-z,defs $(BLAS_LIBS) -lm && mv $@.tmp $@

# the kernels' shared memory under the checker of tests/emulation/races.h
RACED ?= 'device_*' operations recurrences rounded_products rounded_weights rounded_models
.PHONY: races
races: | $(BUILD)/test.tools ## what nothing orders in the GPU kernels' shared memory, on the CPU: minutes; RACED="..." tests of test_cuda
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/races RACES=yes $(BUILD)/races/tests/test_cuda \
	  $(BUILD)/races/libdeqmamba_emulated.so
	@for t in $(RACED); do $(BUILD)/races/tests/test_cuda "$$t" || exit 1; done

.PHONY: gpu-test gpu-bench gpu-bundle
gpu-test: cuda $(BUILD)/tests/test_cuda $(PROGRAMS) ## on a machine with a GPU: every operation, models, training, CPU against GPU
	tests/gpu/run test $(BUILD)
gpu-bench: cuda $(BUILD)/bench ## on a machine with a GPU: operations beside its limits, training tokens/s, as JSON
	tests/gpu/run bench $(BUILD)
# for a machine with CUDA, but without our libraries: tar xf it there, then deqmamba/run test
BUNDLE := $(BUILD)/bundle/deqmamba
gpu-bundle: cuda $(BUILD)/tests/test_cuda $(PROGRAMS) ## all of that in one archive, with the libraries that it needs beside CUDA's
	@rm -rf $(BUNDLE) && mkdir -p $(BUNDLE)/tests $(BUNDLE)/lib
	@cp $(PROGRAMS) $(BUILD)/libdeqmamba_cuda.so tests/gpu/run $(BUNDLE)/
	@cp $(BUILD)/tests/test_cuda $(BUNDLE)/tests/ && cp -R configs $(BUNDLE)/
	@strip $(PROGRAMS:$(BUILD)/%=$(BUNDLE)/%) $(BUNDLE)/tests/test_cuda
	@ldd $(PROGRAMS) $(BUILD)/tests/test_cuda | awk '$$2 == "=>" && $$3 ~ /^\// && \
	  $$1 !~ /^(libc|libm|libdl|librt|libpthread|libgcc_s|ld-linux.*)\.so/ { print $$3 }' | sort -u | \
	  xargs -I{} cp -L {} $(BUNDLE)/lib/
	@tar -C $(BUILD)/bundle -czf $(BUILD)/deqmamba-gpu.tar.gz deqmamba
	@ls -l $(BUILD)/deqmamba-gpu.tar.gz | awk '{ printf "%s: %.1f MB\n", $$NF, $$5 / 1e6; exit $$5 > 60e6 }'

# ---- housekeeping ----

.PHONY: deps clean help
deps: ## installs what is missing (Debian, Ubuntu), or says what to install
	@.ci/deps && echo "deqmamba: nothing is missing"
clean: ## removes build/
	rm -rf $(BUILD)
help:
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: CC CFLAGS LDFLAGS BLAS_CFLAGS BLAS_LIBS OPTIMISE BUILD PREFIX NVCC."
	@echo "At run time OPENBLAS_CORETYPE chooses OpenBLAS's kernels, DEQMAMBA_ISA ours (cpu, cpu_v3, cpu_v4)."

.DELETE_ON_ERROR:
.SECONDARY:
-include $(shell find $(BUILD)/obj $(BUILD)/cuda -name '*.d' 2>/dev/null)
