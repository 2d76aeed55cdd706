/* The first program: memory that survives, with no daemon and no set-up. */
// clang-format off: as it stands in the documents
#include <bartender.h>

int main(void) {
  struct btd_config btd_config;
  btd_config.single_node = 1;
  struct btd_cluster *p_cluster = btd_cluster_create(&btd_config);
  const char *s = "123";
  char *p_data = btd_malloc(p_cluster, 100);
  btd_memcpy(p_data, s, strlen(s));
  btd_free(p_data);
}
