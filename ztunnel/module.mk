ZT_MESH := ztunnel/mesh/model.c ztunnel/mesh/mesh.c ztunnel/mesh/decide.c ztunnel/mesh/pick.c \
	ztunnel/mesh/rbac.c ztunnel/mesh/local_state.c ztunnel/mesh/local_policy.c
ZT_OBSERVE := ztunnel/observe/conn_info.c ztunnel/observe/metrics.c ztunnel/observe/metrics_text.c \
	ztunnel/observe/ring.c ztunnel/observe/log_line.c ztunnel/observe/access_log.c
