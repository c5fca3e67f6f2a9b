ZT_MESH := ztunnel/mesh/model.c ztunnel/mesh/mesh.c ztunnel/mesh/decide.c ztunnel/mesh/pick.c \
	ztunnel/mesh/rbac.c ztunnel/mesh/local_state.c ztunnel/mesh/local_policy.c
