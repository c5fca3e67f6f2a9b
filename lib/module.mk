LIB_SRCS += $(wildcard lib/base/*.c lib/os/*.c lib/event/*.c lib/format/*.c lib/wire/*.c)
UNIT_TESTS += base event
